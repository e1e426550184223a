"""Short stories from a small grammar: the text that models/stories_tiny.bin was trained on, written by this project.

A story has a hero with a name, a place, a thing that is lost or found, a friend, and an end that fits: what is said
later depends on what was said before, so that a model has something to remember. Choices are made with falling
weights, the first the most often, so that a model has clear favourites.
"""

from __future__ import annotations

import numpy as np

HEROES = ("fox", "bear", "cat", "mouse", "bird", "dog", "frog", "rabbit")
SHE = ("Lily", "Mia", "Anna", "Rosa", "Nora")
HE = ("Tim", "Ben", "Max", "Sam", "Leo")
SIZES = ("little", "young", "small", "brave", "shy")
PLACES = ("a green forest", "a small house", "an old tree", "a quiet village", "a garden near the sea")
WALKS = ("by the river", "in the woods", "on the hill", "under a big tree", "near the old bridge")
COLOURS = ("red", "blue", "yellow", "green", "white")
THINGS = ("ball", "kite", "boat", "hat", "drum", "box")
FOODS = ("an apple", "a cake", "some honey", "warm bread", "a bowl of soup")
WEATHER = ("The sun was warm", "The sky was blue", "It was a windy day", "It rained a little", "Snow lay on the grass")
LIKES = ("play", "sing", "run", "dance", "read")


def choose(rng: np.random.Generator, choices: tuple[str, ...], other_than: str = "") -> str:
    """One of the choices, each 0.62 times as likely as the one before."""
    left = [choice for choice in choices if choice != other_than]
    weights = 0.62 ** np.arange(len(left))
    return left[int(rng.choice(len(left), p=weights / weights.sum()))]


def hero(rng: np.random.Generator, other_than: tuple[str, str] = ("", "")) -> tuple[str, str, str, str, str]:
    """(kind, name, he or she, him or her, his or her)."""
    kind = choose(rng, HEROES, other_than[0])
    if rng.random() < 0.6:
        return kind, choose(rng, SHE, other_than[1]), "she", "her", "her"
    return kind, choose(rng, HE, other_than[1]), "he", "him", "his"


def story(rng: np.random.Generator) -> str:
    """A story of about a hundred words."""
    kind, name, he, him, his = hero(rng)
    friend, friends_name, friend_he, _, _ = hero(rng, (kind, name))
    thing = f"{choose(rng, COLOURS)} {choose(rng, THINGS)}"
    walk, like, food = choose(rng, WALKS), choose(rng, LIKES), choose(rng, FOODS)
    opening = (
        f"Once upon a time, there was a {choose(rng, SIZES)} {kind} named {name}. {name} lived in "
        f"{choose(rng, PLACES)} and liked to {like}."
    )
    day = f"One day, {name} went for a walk {walk}. {choose(rng, WEATHER)}."
    if rng.random() < 0.5:
        middle = [
            f"There {he} saw a {thing}. It was not {his} {thing.split()[1]}.",
            f'"Whose {thing} is this?" asked {name}.',
            f"Then a {friend} came. {friend_he.capitalize()} looked very sad.",
            f'"I lost my {thing}," said {friends_name} the {friend}.',
            f"{name} smiled and gave the {thing} to {friends_name}.",
        ]
        moral = "It is good to give back what you find"
    else:
        middle = [
            f"{he.capitalize()} took {his} {thing} with {him}. But {walk} the {thing} was gone!",
            f"{name} was sad and began to cry.",
            f"A {friend} named {friends_name} heard {him}.",
            f'"Do not cry," said {friends_name}. "I will help you find your {thing}."',
            f"They looked and looked. At last they found the {thing}.",
        ]
        moral = "It is good to have a friend who helps"
    ending = [
        f"{name} and {friends_name} were very happy. They ate {food} and began to {like}.",
        f"From that day on, the {kind} and the {friend} were best friends. {moral}.",
    ]
    return " ".join([opening, day, *middle, *ending])
