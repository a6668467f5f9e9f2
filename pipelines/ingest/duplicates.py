"""Finds images that are in a set twice, also if one of them was encoded again or scaled."""

from collections.abc import Callable, Sequence
from itertools import combinations

import cv2
import numpy as np

from dmlcsr.image_files import BadSampleError
from pipelines.config.base import SPLITS, Split
from pipelines.data.images import decode_image
from pipelines.data.packing import SampleProblem
from pipelines.ingest.hashes import Hashes, repeated

DUPLICATE = "duplicate_image"
"""Reason of a remark about a row whose image is that of an earlier row."""
_GRID, _KEPT = 32, 8
"""Side of the gray image that is transformed, and of the lowest frequencies that are kept, which give 63 bits.

Different faces must not share a hash: among 700 photographs of faces the nearest two differ in 7 bits; with 6 x 6
frequencies they would differ in 2.
"""
_MIN_CONTRAST = 2.0
"""Standard deviation in gray levels, 0..255, below which the signs of the frequencies are noise."""


def image_hash(image: bytes, size: tuple[int, int]) -> int | None:
    """The perceptual hash of an encoded image of (height, width): the signs of its lowest frequencies (DCT).

    Copies mostly have the same hash after they were scaled or encoded again. None if the image has no contrast.
    Raises BadSampleError if OpenCV cannot decode the image.
    """
    factor = next((factor for factor in (8, 4, 2) if min(size) >= factor * _GRID), 1)
    try:
        gray = cv2.cvtColor(decode_image(image, factor), cv2.COLOR_RGB2GRAY)
    except ValueError as error:
        raise BadSampleError("undecodable", str(error)) from error
    small = cv2.resize(gray.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    if small.std() < _MIN_CONTRAST:
        return None
    bits = cv2.dct(small)[:_KEPT, :_KEPT].ravel()[1:] > 0  # the first is the brightness
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


class SeenImages:
    """The hashes of the images of a set, by shard: 8 bytes per row. Ids are read again where two rows have the same."""

    def __init__(self) -> None:
        self._shards: dict[str, tuple[Split, Hashes]] = {}

    def add(self, split: Split, shard: str, hashes: Sequence[int]) -> None:
        """Adds the image hashes of a shard."""
        self._shards[shard] = (split, np.array(hashes, np.uint64))

    def groups(self, read_ids: Callable[[str], Sequence[str]]) -> list[list[tuple[Split, str]]]:
        """(split, id) of the rows with equal hashes, for each hash that occurs twice; the order of adding is lost.

        `read_ids` returns the ids of the rows of a shard, in the order of their hashes.
        """
        num_rows = sum(len(hashes) for _, hashes in self._shards.values())
        twice = np.array(repeated(lambda: (hashes for _, hashes in self._shards.values()), num_rows), np.uint64)
        found: dict[int, list[tuple[int, str]]] = {}
        for shard, (split, hashes) in self._shards.items():
            rows = np.flatnonzero(np.isin(hashes, twice))
            ids = read_ids(shard) if len(rows) else ()
            for row in rows.tolist():
                found.setdefault(int(hashes[row]), []).append((SPLITS.index(split), ids[row]))
        return sorted([(SPLITS[split], name) for split, name in sorted(same)] for same in found.values())


def row_remarks(groups: list[list[tuple[Split, str]]]) -> list[SampleProblem]:
    """A remark about each row whose image an earlier row has; train is before val, and val before test."""
    return [
        SampleProblem(source=name, reason=DUPLICATE, detail=f"the same image as {first} in {split}")
        for (split, first), *others in groups
        for _, name in others
    ]


def leaks(groups: list[list[tuple[Split, str]]]) -> list[str]:
    """A sentence for each two splits that have images in common."""
    found = []
    for pair in combinations(SPLITS, 2):
        count = sum(set(pair) <= {split for split, _ in group} for group in groups)
        if count:
            verb = "image is" if count == 1 else "images are"
            found.append(
                f"{count} {verb} in {pair[0]} and in {pair[1]}, so scores on {pair[1]} say less about new faces"
            )
    return found
