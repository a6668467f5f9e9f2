"""Masks as labelling tools read them: run lengths of COCO, and of Label Studio's brush."""

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
_BRUSH_BITS = (3, 4, 8, 16)
"""Sizes of a run length, of which each run names one."""


def runs(values: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], bool]:
    """Lengths of the runs of equal values in a flat array with at least one, and the value of the first."""
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    return np.diff(ends, prepend=0), bool(values[0])


def coco_counts(mask: Mask) -> list[int]:
    """COCO's uncompressed run lengths of a (H, W) mask: column by column, zeros first."""
    lengths, first = runs(mask.ravel(order="F"))
    return [0, *lengths.tolist()] if first else lengths.tolist()


def brush_rle(mask: Mask) -> list[int]:
    """Label Studio's bytes for a (H, W) mask: run lengths of its RGBA pixels, which are 0 or 255 in all channels.

    A header (32 bits: number of values; 5: bits of a value - 1; 4 x 4: bits of each size - 1), then for each run a 1,
    the index of its size in 2 bits, its length - 1 in as many bits, and its value in 8.
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
