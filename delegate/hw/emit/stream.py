"""Command streams: words, addresses that are not known yet, and the four words at the end of a task (npu.md §2.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from delegate.hw.registers import Register, word
from delegate.hw.regs import PC
from delegate.hw.task import Place, Words

# Every block writes and runs its register groups in turn; CNA and CORE belong to the kernel (npu.md §2.3, S-92).
PING_PONG = {"pointer_pp_en": 1, "executer_pp_en": 1, "pointer_pp_mode": 1}
NOTHING = 0  # an all-zero word has no effect
BARRIER = word(0x0041, 0, 0)  # has to stand before the word that fires (npu.md §2.1)
# What starts which blocks (S-88).
FIRE_CONVOLUTION = 0x1D  # CNA, CORE, DPU, DPU_RDMA
FIRE_FLYING = 0x18  # DPU, DPU_RDMA
FIRE_POOLING = 0x60  # PPU, PPU_RDMA
TAIL_WORDS = 4


@dataclass(frozen=True)
class Address:
    """A register that takes an I/O address."""

    register: Register
    place: Place


Command = int | Address


def fire(blocks: int) -> int:
    """The word that starts the blocks of a bitmap (S-88)."""
    return word(0x0081, 0x0008, blocks)


def amount(words: int) -> int:
    """PC_REGISTER_AMOUNTS of a stream of so many words, tail included: pairs of words less 1 (npu.md §2.2)."""
    return (words + 1) // 2 - 1


def assemble(body: Iterable[Command], blocks: int) -> tuple[Words, list[tuple[int, Place]]]:
    """(words with an unlinked tail, [(index of a word, place whose address it takes)])."""
    words: list[int] = []
    places: list[tuple[int, Place]] = []
    for command in body:
        if isinstance(command, Address):
            places.append((len(words), command.place))
            words.append(word(command.register.block.target, command.register.offset, 0))
        else:
            words.append(command)
    words += [NOTHING, PC.REGISTER_AMOUNTS(pc_data_amount=0), BARRIER, fire(blocks)]
    return np.array(words, np.uint64), places


def link(words: Words, next_words: int) -> int:
    """Makes the tail lead to a stream of ``next_words`` words; returns the index of the word that takes its address."""
    first = len(words) - TAIL_WORDS
    words[first] = PC.BASE_ADDRESS()
    words[first + 1] = PC.REGISTER_AMOUNTS(pc_data_amount=amount(next_words))
    return first
