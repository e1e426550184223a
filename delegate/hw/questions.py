"""The open questions about the silicon: what the compiler or the simulator relies on without proof on an RK3588.

One list for everything that asks: `python -m delegate probe` settles those with a probe on a device, the simulator
(``hw.sim.options``) can be switched to each behaviour, the compiler uses a form (``hw.soc.FORMS``) that nobody has
proven once all questions about it are answered as it assumes. Sources are as in docs/hardware.md. ``hw.unprobed`` lists
those that no program can answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from delegate.hw.soc import (
    BS_CLAMP,
    CHANNEL_GAIN,
    CHANNEL_OPERAND,
    FLYING_SCALE,
    NORM_SHIFT,
    OPERAND_GAIN,
    PART_OF_ROW,
    ROW_SKIP,
    TABLE,
)


@dataclass(frozen=True)
class Question:
    """A question with its candidates: behaviours by name, each said in words.

    The first candidate is the one that compiler and simulator assume. ``probe``: what is run to tell them apart.
    ``forms``: those that are sound only if the first holds. ``risky``: an answer may be a hang of the core.
    ``chained``: only a kernel that hands chains to the program controller can be asked. ``of_vendor``: what is assumed
    of the vendor's kernel, if that is another. ``always``: the compiler relies on the first candidate, whatever the
    answer is (operands of fused additions, which upstream has run on boards, among others).
    """

    name: str
    text: str
    source: str
    candidates: Mapping[str, str]
    probe: str
    forms: tuple[str, ...] = ()
    risky: bool = False
    chained: bool = False
    of_vendor: str = ""
    always: bool = False

    @property
    def assumed(self) -> str:
        return next(iter(self.candidates))

    def assumed_with(self, kernel: str) -> str:
        """What is assumed with a kernel, rocket or rknpu."""
        return self.of_vendor if self.of_vendor and kernel == "rknpu" else self.assumed


ROUNDINGS = {
    "even": "to nearest, ties to even, as all converters that were measured",
    "away": "to nearest, ties away from zero",
    "floor": "down",
}

# In the order in which they are asked: what no program has done yet in any format, and so might hang, comes late.
PROBED = (
    Question(
        "norm_shift",
        "How does BN shift an integer product?",
        "S-14 measures the product alone; §5.3, F-63",
        {
            **ROUNDINGS,
            "narrow": "to nearest, ties to even, but products beyond 32 bits are clamped before",
            "no shift": "not at all",
        },
        "products of 33 bits behind a convolution, of both signs, some of them ties",
        (NORM_SHIFT,),
    ),
    Question(
        "norm_order",
        "Does BN multiply integers before it adds?",
        "C-10; S-154 measures fp16, F-63",
        {"multiply first": "as in fp16", "add first": "as BS does"},
        "a product and an addend from registers behind a convolution",
        (CHANNEL_GAIN,),
    ),
    Question(
        "operand_rounding",
        "How does the integer operand converter of the element-wise unit round its shift?",
        "C-14, S-167 (quarantined), F-81, unknown 2",
        {
            **ROUNDINGS,
            "half to zero": "to nearest, ties towards zero",
            "half down": "to nearest, ties down, as the quarantined run would have it",
            "to zero": "towards zero",
        },
        "all 256 operands times 3 / 4 added to nothing",
        (OPERAND_GAIN,),
    ),
    Question(
        "operand_width",
        "How wide is a converted operand?",
        "unknown 2, §5.4, F-81",
        {
            "32 bits": "it saturates at 32 bits",
            "saturates at 16 bits": "larger ones are clamped to 16 bits",
            "wraps at 16 bits": "of larger ones the low 16 bits are left",
        },
        "operands times 30001 added to nothing",
        (OPERAND_GAIN,),
        always=True,
    ),
    Question(
        "operand_offset",
        "Which sign has the offset of the operand converter?",
        "§11, S-224 (sibling); NVDLA subtracts",
        {"added": "(e + offset) * scale", "subtracted": "(e - offset) * scale"},
        "an offset of 7 with a converter that does nothing else",
        (OPERAND_GAIN, FLYING_SCALE),
        always=True,
    ),
    Question(
        "bs_clamp",
        "What do ReLU and ReLUX of BS do to integers?",
        "§5.3, C-7, F-75, unknown 1",
        {
            "behind the product": "clamp to 0 and to the register's integer",
            "before the product": "clamp the sum, then multiply",
            "float limit": "clamp to 0 and to the float whose bits the register holds, as in fp16",
            "no limit": "clamp to 0 alone",
            "nothing": "have no effect",
        },
        "sums on both sides of 0 and of a limit, with a multiplier for each channel",
        (BS_CLAMP,),
    ),
    Question(
        "bs_prelu",
        "Which integers does BS multiply with MUL_PRELU set?",
        "C-7; S-155 measures fp16",
        {"negative ones": "as in fp16", "all": "the bit has no effect", "none": "nothing is multiplied"},
        "numbers of both signs times 3 with the bit set, without convolution",
    ),
    Question(
        "addend_overflow",
        "What becomes of a sum in BS that leaves 32 bits?",
        "§11, F-65",
        {"saturates": "the largest or least number", "wraps": "its low 32 bits"},
        "a bias close to the largest number",
    ),
    Question(
        "truncation",
        "What does CLIP_TRUNCATE shift?",
        "§5.2 and §11 against captures, C-11, F-53, F-54",
        {
            "sum with CPEND": "accumulators with the weight zero point's part in them",
            "sum before CPEND": "accumulators, before that part is added",
            "nothing": "nothing, as in fp16 (S-168)",
        },
        "a shift of 2 beside a weight zero point",
    ),
    Question(
        "flying_width",
        "What lies between the stages of an int8 task without convolution?",
        "§5.4, S-107, F-122",
        {
            "32 bits": "numbers of 32 bits, as behind a convolution",
            "8 bits": "each stage saturates to int8",
            "BS idle": "numbers of 32 bits, but BS does nothing",
            "OUT_CVT idle": "numbers of 32 bits, but OUT_CVT only saturates",
        },
        "a sum and a product in BS, an operand, both times large negative factors, and a scale that brings it all back",
        (FLYING_SCALE,),
    ),
    Question(
        "operand_conversion",
        "Before which operations does the integer operand converter stand?",
        "§5.4, S-224 (sibling, additions), F-124",
        {"every one": "products, maxima and minima too", "sums": "additions and subtractions only"},
        "products, maxima and sums with an offset, without convolution",
        (FLYING_SCALE,),
    ),
    Question(
        "channel_operand",
        "How does an int8 task without convolution read an operand of data mode 0?",
        "S-160 (fp16), F-123",
        {
            "by channel": "one number a channel, EW_SURF_STRIDE from surface to surface",
            "by pixel": "one a pixel and channel: the mode has no effect",
            "first surface": "one number a channel, but all surfaces read the first",
        },
        "an operand in which no two pixels, channels or surfaces are alike",
        (CHANNEL_OPERAND,),
    ),
    Question(
        "operand_register",
        "Which of the eight operand registers does a channel of an int8 task take?",
        "S-152 (one value for all), F-84",
        {"channel modulo 8": "the eight in turn", "first": "all channels take the first"},
        "eight different numbers added to nothing, without convolution",
    ),
    Question(
        "table_path",
        "Does an int8 task look its numbers up?",
        "S-220 (sibling), S-125, F-120, unknown 3",
        {
            "behind BS": "the integer behind BS is the index",
            "before BS": "the number that was read is the index",
            "not at all": "the tables have no effect",
        },
        "indices at entries of the upper table, as the compiler uses it",
        (TABLE,),
    ),
    Question(
        "interpolation",
        "How are integers rounded between two entries of a table?",
        "§6, S-220 (within 1), F-121",
        ROUNDINGS,
        "indices between entries whose differences are odd",
    ),
    Question(
        "table_zero",
        "What does an entry of 0 give to an integer?",
        "S-122 (fp16), F-94",
        {"0": "0", "4": "4.0, which is 131072 in steps of an entry, as in fp16"},
        "an index at an entry of 0",
    ),
    Question(
        "part_of_row",
        "What leads CNA from row to row where it reads a part of each?",
        "§3.2, S-47 (row-major), F-127, F-128",
        {"line stride": "LINE_STRIDE", "width": "the width that it reads"},
        "five columns of rows of nine, also with padding beside them, and one column of rows of three",
        (PART_OF_ROW,),
    ),
    Question(
        "row_skip",
        "Where does the DPU leave out NOTCH atoms in an int8 cube?",
        "S-48 (rows of one pixel), §5.6, F-125",
        {"behind rows": "behind each row", "behind pixels": "behind each pixel", "nowhere": "nowhere"},
        "rows of four pixels with three left out, behind a convolution and without one",
        (ROW_SKIP,),
    ),
    Question(
        "surface_pitch",
        "What leads the DPU from surface to surface where they are further apart than a plane?",
        "§5.6, C-20, S-228 (sibling), F-126",
        {"registers": "DST_SURF_STRIDE and SURFACE_ADD", "plane": "the size of a plane"},
        "four surfaces with gaps between them",
        always=True,
    ),
    Question(
        "short_kernels",
        "What accumulates in channels of a whole group that have no kernel, beside a weight zero point?",
        "S-191, C-3, §3.1, F-51",
        {"window sum": "the weight zero point's part, like in the others", "nothing": "nothing"},
        "20 kernels of a group of 32",
    ),
    Question(
        "written_channels",
        "Which channels does the DPU write behind a convolution: a concatenation at 16 channels depends on it?",
        "§3.1, §11, S-150 (sibling), F-73, F-109, unknown 13",
        {"CHANNEL": "all of CHANNEL, whole groups", "ORIG_CHANNEL": "those of ORIG_CHANNEL, in whole atoms"},
        "16 true channels of 32, written one surface into a cube of three; then read from there by another convolution",
    ),
    Question(
        "spare_lanes",
        "What is written to the lanes of an atom that have no channel?",
        "§11, F-72",
        {"0": "zeros", "nothing": "they stay as they are"},
        "20 channels without convolution",
    ),
    Question(
        "pad_lanes",
        "Which byte of PAD_CON1 pads a depthwise convolution?",
        "S-36 against programs `rus-dw_uint8`, F-30, unknown 14",
        {"lowest": "the lowest", "two lanes": "odd channels among the first 32 of 64 take the second"},
        "two different bytes around a depthwise convolution",
    ),
    Question(
        "pad_after",
        "What do windows see that reach beyond the last row or column?",
        "S-39 [source], S-84 (sibling), F-31",
        {"padding": "the padding value", "0": "zeros"},
        "a 3 x 3 convolution without padding before, whose output is as large as its input",
        always=True,
    ),
    Question(
        "low_height",
        "How is a negative SURF_STRIDE read, where fewer than four rows are?",
        "§3.2, C-13, C-23, F-20",
        {"signed": "as a negative number: surfaces follow each other", "0": "as 0: surfaces are four rows apart"},
        "two surfaces of two rows of five pixels",
    ),
    Question(
        "entries_of_three",
        "How many CBUF entries takes a row of three atoms a pixel?",
        "C-9, S-182, F-33",
        {
            "either": "three or four atoms a pixel are both right",
            "three": "three atoms a pixel; with four the results are wrong",
            "four": "four atoms a pixel; with three the results are wrong",
        },
        "a convolution of 48 channels with each",
        always=True,
    ),
    Question(
        "chain_order",
        "May a chained convolution read what the task before it wrote?",
        "C-4, S-98, S-212 (sibling), F-13, unknown 11",
        {"in order": "it sees all of it", "stale": "some of it is what lay there before"},
        "a tiny task and a convolution that reads its output, in one chain, 64 times",
        chained=True,
    ),
    Question(
        "pooling_interrupt",
        "Does the kernel hear of the end of a pooling task?",
        "S-137, S-196, F-105",
        {"silent": "no: the job runs into the watchdog", "signalled": "yes"},
        "a maximum over 2 x 2 windows, and how long the job lasts; assumed is silent with rocket, signalled with rknpu",
        of_vendor="signalled",
    ),
    Question(
        "pooling_width",
        "May a pooled row have more than 128 columns?",
        "S-232 (sibling), F-100",
        {"yes": "yes", "no": "the results are wrong from the first column on"},
        "maxima of a row of 100 windows and of one of 160",
    ),
    Question(
        "average_rounding",
        "How does the PPU round averages over windows above 8 x 8?",
        "S-132 against S-179, S-179b, F-101, unknown 7",
        {
            "reciprocals": "sum times both truncated reciprocals, ties to even",
            "cases": "the quotient, ties away from zero, one less in the cases of S-132",
        },
        "windows of 3 x 11 whose sums meet all cases in which the two differ",
    ),
    Question(
        "average_overflow",
        "What becomes of an average beyond int8, which rounded reciprocals can give?",
        "S-226 (sibling), F-101, unknown 7",
        {"clamps": "it is clamped", "wraps": "its low byte is written"},
        "windows full of 127 and -128 with reciprocals one third too large",
    ),
    Question(
        "gain_operand",
        "How does the element-wise unit behind a convolution read an operand of data mode 0?",
        "S-107, S-110, S-160 (fp16), F-131",
        {
            "by channel": "one number a channel, EW_SURF_STRIDE from surface to surface",
            "by pixel": "one a pixel and channel: the mode has no effect",
            "first surface": "one number a channel, but all surfaces read the first",
        },
        "products of 24 bits with an operand in which no two pixels, channels or surfaces are alike",
        (CHANNEL_GAIN,),
    ),
    Question(
        "part_of_group",
        "Does a convolution complete whose CHANNEL is no whole group?",
        "S-50, S-190, S-191, C-3, F-52",
        {"never": "never: the watchdog ends it", "completes": "yes, and it writes a part of a group"},
        "48 channels of two groups of 32",
        risky=True,
    ),
    Question(
        "sync_word",
        "Is the word 0x0041 needed before the word that fires?",
        "§2.1, C-17, F-10",
        {"not needed": "no", "needed": "the task never completes without it"},
        "a convolution without the word",
        risky=True,
    ),
)

QUESTIONS: Mapping[str, Question] = {question.name: question for question in PROBED}


def forms_allowed(verdicts: Mapping[str, str | None]) -> frozenset[str]:
    """The forms all of whose questions are answered as the compiler assumes. ``verdicts``: candidates by question."""
    about: dict[str, list[Question]] = {}
    for question in PROBED:
        for form in question.forms:
            about.setdefault(form, []).append(question)
    return frozenset(
        form for form, asked in about.items() if all(verdicts.get(one.name) == one.assumed for one in asked)
    )
