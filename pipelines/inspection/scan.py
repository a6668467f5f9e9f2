"""Counts and draws the rows of a data set in Ray tasks. No image is read but those that are drawn."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cv2
import numpy as np
import ray.data

from dmlcsr.image_files import BadSampleError
from dmlcsr.taxonomy import Taxonomy
from pipelines.config.base import SPLITS, Split
from pipelines.data import decode_tasks, packing, row_groups
from pipelines.data.dataset import Manifest
from pipelines.data.images import check_label, decode_image, decode_label, encode_png
from pipelines.data.packing import SampleProblem, Shard
from pipelines.data.row_groups import RowRange, SplitFiles
from pipelines.inference.overlay import overlay
from pipelines.inspection.counts import ClassMap, Label, SetCounts, Unusual
from pipelines.run.progress import log_count

_SAMPLED_GROUPS = 64
"""Number of row groups, evenly spaced over all, from whose labels the mean class map is made."""
_TASKS = 8
"""Number of tasks of work on a few rows."""
_HEIGHT = 256
"""Height of a drawn row in pixels; it is lower if the image is more than twice as wide as high."""
Sources = Mapping[Split, SplitFiles]


class Pick(NamedTuple):
    """A row to draw: its split and its place."""

    split: Split
    place: RowRange


class Drawn(NamedTuple):
    """A drawn row: the image and, beside it, its label over it, as PNG; None if the image or label is damaged."""

    id: str
    split: Split
    picture: bytes | None


def open_sources(uri: str, manifest: Manifest) -> dict[Split, SplitFiles]:
    return {split: row_groups.open_split(uri, manifest, split) for split in SPLITS if manifest.splits.get(split)}


def count_rows(sources: Sources) -> SetCounts:
    """Counts all rows in one pass, after the mean class map was made of the labels of evenly spaced row groups."""
    sampled = _count(sources, _sample(sources), None, "sampled")
    class_map = sampled.class_map() if sampled.num_labels else None
    return _count(sources, _files(sources), class_map, "counted")


def _files(sources: Sources) -> list[Shard]:
    """A shard for each file, or for several; the work of a shard is (start, stop, step) of row groups of its split."""
    each = -(-sum(len(source.files) for source in sources.values()) // decode_tasks.MAX_TASKS)
    shards = []
    for split, source in sources.items():
        ends = [*range(0, len(source.files), each), len(source.files)]
        firsts = [source.groups.first_of_file(file) for file in ends]
        shards += [Shard(split, number, (*bounds, 1)) for number, bounds in enumerate(pairwise(firsts))]
    return shards


def _sample(sources: Sources) -> list[Shard]:
    """Shards of about _SAMPLED_GROUPS row groups, evenly spaced in each split."""
    num_groups = {split: source.groups.num_groups for split, source in sources.items()}
    step = -(-sum(num_groups.values()) // _SAMPLED_GROUPS)
    size = step * _SAMPLED_GROUPS // _TASKS
    return [
        Shard(split, number, (start, min(start + size, count), step))
        for split, count in num_groups.items()
        for number, start in enumerate(range(0, count, size))
    ]


def _count(sources: Sources, shards: Sequence[Shard], class_map: ClassMap | None, verb: str) -> SetCounts:
    def count(row: dict[str, Any]) -> dict[str, Any]:
        split, _, work = json.loads(row["shard"])
        return {"answer": json.dumps(count_groups(sources[split], split, range(*work), class_map).to_dict())}

    total = SetCounts.zeros(_num_classes(next(iter(sources.values()))))
    for done, row in enumerate(packing.shard_rows(shards).map(count).iter_rows(), start=1):
        total += SetCounts.from_dict(json.loads(row["answer"]))
        log_count(f"{verb} {done} of {len(shards)} parts", done, len(shards))
    return total


def _num_classes(source: SplitFiles) -> int:
    return source.taxonomy.num_classes if source.taxonomy else 0


def count_groups(source: SplitFiles, split: Split, groups: range, class_map: ClassMap | None) -> SetCounts:
    """Counts the rows of row groups, given by their numbers in the split; one group is in memory at a time."""
    counts = SetCounts.zeros(_num_classes(source))
    for number in groups:
        place = source.groups.whole(number)
        rows = row_groups.read_rows(source, [place], ("id", "label", "height", "width"))
        for index, row in enumerate(rows):
            grid = _add(counts, row, source.taxonomy)
            if grid is not None and class_map is not None:
                minus = round(-class_map.surprise(grid), 6)
                counts.add_unusual(Unusual(minus, split, row["id"], place.file, place.group, index))
    return counts


def _add(counts: SetCounts, row: Mapping[str, Any], taxonomy: Taxonomy | None) -> Label | None:
    """Adds a row; returns its label on the grid, or None if it has no label that can be counted."""
    counts.add_image(row["width"], row["height"])
    if row["label"] is None or taxonomy is None:
        counts.num_unlabelled += 1
        return None
    try:
        label = decode_label(row["label"])
        check_label(label, (row["height"], row["width"]), taxonomy)
    except ValueError as error:
        reason = error.reason if isinstance(error, BadSampleError) else "undecodable"
        counts.add_problem(SampleProblem(source=row["id"], reason=reason, detail=str(error)))
        return None
    return counts.add_label(label)


def random_picks(sources: Sources, num: int, seed: int) -> list[Pick]:
    """Chooses at most `num` different rows of all splits; returns them in order."""
    ends = np.cumsum([source.num_rows for source in sources.values()])
    chosen = np.random.default_rng(seed).choice(ends[-1], min(num, int(ends[-1])), replace=False)
    picks = []
    for row in sorted(chosen.tolist()):
        index = int(np.searchsorted(ends, row, side="right"))
        split, source = list(sources.items())[index]
        first = row - int(ends[index]) + source.num_rows
        picks += [Pick(split, place) for place in source.groups.locate(first, first + 1)]
    return picks


def draw(sources: Sources, picks: Sequence[Pick]) -> list[Drawn]:
    """Draws the rows, in the order of `picks`."""
    if not picks:
        return []
    items = [{"number": number, "pick": json.dumps(pick)} for number, pick in enumerate(picks)]

    def work(row: dict[str, Any]) -> dict[str, Any]:
        split, place = json.loads(row["pick"])
        name, picture = draw_row(sources[split], RowRange(*place))
        return {"number": row["number"], "id": name, "picture": picture or b""}

    tasks = ray.data.from_items(items, override_num_blocks=min(_TASKS, len(items))).map(work)
    found = sorted(tasks.iter_rows(), key=lambda row: int(row["number"]))
    return [Drawn(row["id"], pick.split, row["picture"] or None) for row, pick in zip(found, picks, strict=True)]


def draw_row(source: SplitFiles, place: RowRange) -> tuple[str, bytes | None]:
    """The id of a row, and its picture."""
    (row,) = row_groups.read_rows(source, [place], ("id", "image", "label"))
    try:
        image, label = decode_image(row["image"]), decode_label(row["label"])
    except ValueError:
        return row["id"], None
    scale = min(_HEIGHT / image.shape[0], 2 * _HEIGHT / image.shape[1])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    if row["label"] is None or source.taxonomy is None:
        return row["id"], encode_png(small)
    return row["id"], encode_png(np.hstack([small, overlay(small, label, source.taxonomy)]))
