"""Prints a program or a capture as text: buffers, jobs, tasks, command words with names instead of addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from delegate.errors import DelegateError, RegisterError
from delegate.hw.regcmd import disassemble_word, parse_word
from delegate.tools.listing import ListedTask, Listing, open_listing


def print_disassembly(path: Path, task: int | None, words: bool) -> None:
    """Prints a file; ``task`` selects one task, counted over all jobs. Raises DelegateError."""
    listing = open_listing(path)
    for line in disassembly(listing, words) if task is None else one_task(listing, task, words):
        print(line)


def disassembly(listing: Listing, words: bool = True) -> Iterator[str]:
    """All lines of a listing; without words only its structure."""
    yield f"{listing.kind} {listing.name}"
    yield from (f"  {note}" for note in listing.notes)
    yield ""
    yield f"{len(listing.buffers)} buffers"
    for number, buffer in enumerate(listing.buffers):
        content = f"  sha256 {buffer.digest}" if buffer.digest else ""
        yield f"  {number:3} {buffer.size:>9} bytes  {buffer.role or 'unknown':8} {buffer.name}{content}"
    number = 0
    for index, job in enumerate(listing.jobs):
        yield ""
        yield f"job {index}: {len(job.tasks)} tasks"
        yield from (f"  {note}" for note in job.notes)
        for task in job.tasks:
            yield from task_lines(listing, task, number, words)
            number += 1


def one_task(listing: Listing, number: int, words: bool) -> Iterator[str]:
    """The lines of one task; raises DelegateError if there is none of that number."""
    tasks = listing.tasks
    if not 0 <= number < len(tasks):
        raise DelegateError(f"{listing.name}: task {number} of {len(tasks)} tasks")
    return task_lines(listing, tasks[number], number, words)


def task_lines(listing: Listing, task: ListedTask, number: int, words: bool) -> Iterator[str]:
    yield ""
    yield f"task {number}: {len(task.words)} words, {task.operation.title or 'unknown operation'}"
    if task.note:
        yield f"  {task.note}"
    if words:
        for index, word in enumerate(task.words.tolist()):
            yield f"  {index:4} {word_line(listing, task, index, word)}"


def word_line(listing: Listing, task: ListedTask, index: int, word: int) -> str:
    """A word in words; an address by its buffer."""
    pointer = task.pointers.get(index)
    if pointer is None:
        return disassemble_word(word)
    try:
        register = parse_word(word).register
    except RegisterError:
        register = None
    return f"{register.full_name if register else f'{word:#018x}'} {listing.place(pointer)}"
