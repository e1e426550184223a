"""The open questions about the silicon that no probe answers, and why; the others are in ``hw.questions``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unprobed:
    """A question without a probe, and why there is none."""

    name: str
    text: str
    source: str
    why: str


UNPROBED = (
    Unprobed(
        "first_entries",
        "Are the first entries of the upper table broken?",
        "S-218 (RK3568), F-130",
        "what a broken entry gives is not published, so there is no second candidate; the compiler uses none of the "
        "first 129 entries",
    ),
    Unprobed(
        "flat_tables",
        "What do equal neighbours in a table give to an integer?",
        "S-120 (fp16), F-94",
        "the spikes that were seen follow no known rule; the compiler makes no equal neighbours",
    ),
    Unprobed(
        "table_reloads",
        "Do tables that a later task of a chain loads take effect?",
        "S-218 (RK3568), F-130",
        "nothing depends on it: the compiler ends a chain before other tables are loaded",
    ),
    Unprobed(
        "low_columns",
        "Why were results of fewer than four rows of one column wrong?",
        "S-69 against programs `mtx`, F-41",
        "no mechanism is known beyond the one that low_height asks about; the compiler always reads four rows",
    ),
    Unprobed(
        "longest_chain",
        "How many tasks may a chain have?",
        "S-199 (sibling, captures)",
        "nobody needs the 4096 tasks that would answer it: the compiler and the vendor's kernel stop at 4095",
    ),
    Unprobed(
        "zero_multiplier",
        "What does a multiplier of 0 for a channel do to its neighbours?",
        "S-223 (RK3576)",
        "nothing depends on it: the compiler writes none",
    ),
    Unprobed(
        "stale_word",
        "What is the stale word that the first task behind a chain with weight reuse once returned?",
        "S-172, C-12, F-35",
        "seen once, without a mechanism; the pattern in the outputs of each run finds what was not written",
    ),
    Unprobed(
        "nearly_full_bank",
        "Which fillings of the last feature bank give garbage?",
        "S-73, S-74, F-36",
        "measured; the rule between the measured points is not known, and the compiler leaves a bank free",
    ),
    Unprobed(
        "norm_records",
        "Can BN take multiplier and addend a channel from memory?",
        "S-31, F-69, unknown 4",
        "eight tries on boards hung, and no layout of the operands is known with which it might not; nothing uses it",
    ),
    Unprobed(
        "pixel_input",
        "How do interleaved int8 pixels of three channels lie in the CBUF?",
        "§3.3, S-171, F-27, F-28",
        "no layout is known with which a program would be right; the compiler stores cubes of 16 channels",
    ),
    Unprobed(
        "compressed_weights",
        "How are compressed weights coded?",
        "§3.4, F-38, unknown 8",
        "no coding is known; the simulator refuses them and nothing makes them",
    ),
    Unprobed(
        "shared_array",
        "What do NN_MODE and KERNEL_GROUP do?",
        "quirk 22, F-39, unknown 8",
        "no program sets them; the simulator refuses them and nothing uses them",
    ),
    Unprobed(
        "pooling_feed",
        "Can the DPU feed the PPU?",
        "§7, S-180, F-104, unknown 7",
        "no program is known that did, and tries on boards failed; nothing uses it",
    ),
    Unprobed(
        "starving_windows",
        "What does the PPU do about windows that reach beyond input and padding?",
        "S-139 (sibling), F-104",
        "it starves until the watchdog, whatever the answer is: the compiler clips the input",
    ),
    Unprobed(
        "deconvolution_pads",
        "What do paddings of 12 to 15 give at factor 2?",
        "S-142, F-40, unknown 9",
        "the measured results are unexplained; the simulator refuses them and the compiler makes no deconvolution",
    ),
    Unprobed(
        "half_lanes",
        "When is lane n % 16 = 0 of an fp16 sum low?",
        "S-67, F-58, unknown 10",
        "the predicate is unknown, and the events are too rare for a program of a minute",
    ),
    Unprobed(
        "float_order",
        "In which order are fp16 depthwise taps, bf16 and tf32 products added, and how does OUT_CVT scale floats?",
        "F-55, F-57, F-79, unknown 6, 12",
        "the delegate's layers are int8; the programs of these formats pass within their tolerance",
    ),
    Unprobed(
        "byte_registers",
        "How many bits of an operand register does an int8 task read?",
        "S-152, F-84",
        "nothing depends on it: the simulator refuses numbers beyond int8, and the compiler takes operands from memory",
    ),
    Unprobed(
        "untried_modes",
        "What do bit 1 of the fire word, OFFSET_PEND, DPU 0x40C4, bursts and priorities that no program sets do?",
        "§2.1, F-91, F-106, F-108, F-118",
        "no source says what they might do; the simulator refuses them and the compiler writes what all programs write",
    ),
    Unprobed(
        "amounts",
        "How far does PC fetch beyond REGISTER_AMOUNTS?",
        "§2.2, C-25, F-09",
        "any amount that reaches the fire word gives the same results; a smaller one would only hang the core",
    ),
    Unprobed(
        "contradictions",
        "What do sizes that contradict each other do, rows beyond their banks, parts of atoms, outputs that overlap?",
        "§4, §11, F-23, F-24, F-34, F-50, F-112, F-129",
        "garbage or a hang, whichever it is: the simulator refuses them and the compiler makes none",
    ),
    Unprobed(
        "accumulator_width",
        "How wide are the accumulators of int8?",
        "§1 [nvdla], F-56",
        "no kernel of 32 KiB, the largest, leaves 32 bits",
    ),
    Unprobed(
        "integer_partials",
        "Can int32 partial sums be added behind a convolution?",
        "S-113, unknown 5",
        "nothing uses it: the compiler cuts no layer along its input channels",
    ),
    Unprobed(
        "addresses",
        "What do addresses do that are not mapped, or no multiples of 16?",
        "§8 [source], F-01, F-107",
        "they would fault, or reach memory that nobody meant: no program should try, and none does",
    ),
    Unprobed(
        "task_times",
        "How long does a task take inside a chain?",
        "unknown 15",
        "a time is no known answer; benchmarks/ measures, `python -m delegate profile` models",
    ),
    Unprobed(
        "vendor_chains",
        "How does the vendor's kernel count the first task of a chain, and where do its three cores read their ranges?",
        "uapi B, C-24, F-15",
        "a question to the kernel, not to the NPU: its source answers it",
    ),
    Unprobed(
        "memory_length",
        "Which length of mem_create does the vendor's kernel take from 0.9.6 on?",
        "decision 0011",
        "a question to the kernel, not to the NPU: opening the device answers it",
    ),
)
