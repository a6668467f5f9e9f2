"""Encodings of masks for labelling tools: run lengths of COCO, and of Label Studio's brush."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
_BRUSH_BITS = (3, 4, 8, 16)
"""Sizes of a run length in bits. Each run names its size by the index in this tuple."""


def runs(values: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], bool]:
    """Lengths of the runs of equal values in a flat, non-empty array, and the value of the first run."""
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    return np.diff(ends, prepend=0), bool(values[0])


def coco_counts(mask: Mask) -> str:
    """The compressed COCO run lengths of a (H, W) mask: column by column, starting with a run of zeros.

    From the fourth run on, the difference to the run before the previous one is stored. Each number is written from its
    low end in characters from code 48 on: 5 bits of two's complement, and bit 5 if more follow.
    """
    lengths, first = runs(mask.ravel(order="F"))
    counts = [0, *lengths.tolist()] if first else lengths.tolist()
    text = []
    for index, value in enumerate(counts):
        rest = value - counts[index - 2] if index > 2 else value
        more = True
        while more:
            bits, rest = rest & 31, rest >> 5
            more = rest != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
    return "".join(text)


def brush_rle(mask: Mask) -> list[int]:
    """The Label Studio bytes of a (H, W) mask: run lengths of its RGBA pixels, which are 0 or 255 in all channels.

    Header: number of values (32 bits), bits of a value - 1 (5 bits), bits of each run length size - 1 (4 x 4 bits).
    Each run: a 1 (1 bit), index of its size (2 bits), length - 1 (as many bits as the size says), value (8 bits).
    """
    lengths, is_set = runs(mask.ravel())
    bits = [f"{4 * mask.size:032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in _BRUSH_BITS)]
    for length in (4 * lengths).tolist():
        while length:
            part = min(length, 1 << _BRUSH_BITS[-1])
            index = next(index for index, size in enumerate(_BRUSH_BITS) if part <= 1 << size)
            bits.append(f"1{index:02b}{part - 1:0{_BRUSH_BITS[index]}b}{255 * is_set:08b}")
            length -= part
        is_set = not is_set
    text = "".join(bits)
    return [int(text[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(text), 8)]
