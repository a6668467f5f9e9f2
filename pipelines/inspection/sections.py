"""The sections of the page of `inspect`."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr.taxonomy import Taxonomy
from pipelines.data.dataset import Manifest
from pipelines.data.images import encode_png
from pipelines.data.packing import SampleProblem
from pipelines.inspection.counts import GRID, SetCounts, ratio_bins, side_bins
from pipelines.inspection.scan import Drawn
from pipelines.report import charts, page
from pipelines.report.page import Column, Picture

_RANDOM_BYTES, _UNUSUAL_BYTES, _MAP_BYTES = 2_000_000, 1_000_000, 500_000
"""Upper limits in bytes of the pictures of a section: together they keep a page small enough to be sent."""
_MAP_SIDE = 160
_EXAMPLES = 3
"""Number of examples of each reason that are shown."""


def rows(manifest: Manifest, counts: SetCounts) -> str:
    """Rows per split, and sizes of the images."""
    by_split = manifest.num_rows()
    total = max(sum(by_split.values()), 1)
    columns = [Column("Split"), Column("Rows"), Column("Of all", percent=True, bar=True)]
    found = page.table("Rows per split", columns, [(split, count, count / total) for split, count in by_split.items()])
    sizes = {"Smallest image": counts.smallest, "Largest image": counts.largest}
    facts: dict[str, object] = {
        "Classes": manifest.label_taxonomy.name if manifest.label_taxonomy else "none, the faces have no labels",
        "Rows with a label": f"{counts.num_labels:,} of {total:,}",
        **{name: "–" if size is None else f"{size[0]} x {size[1]} pixels" for name, size in sizes.items()},
    }
    side = charts.histogram(
        "Longer side of the images", side_bins(counts.sides), "pixels, from this number to the next"
    )
    ratio = charts.histogram("Aspect ratio of the images", ratio_bins(counts.ratios), "width / height, rounded")
    return page.facts(facts) + found + f'<div class="block charts">{side}{ratio}</div>'


def classes(taxonomy: Taxonomy | None, counts: SetCounts) -> str:
    """The share of pixels and of images of each class."""
    if taxonomy is None or not counts.num_labels:
        return ""
    columns = [
        Column("Class"), Column("Id"), Column("Of the pixels", percent=True, digits=3, bar=True), Column("Images"),
        Column("Of the images", percent=True, bar=True),
    ]  # fmt: skip
    labelled = max(int(counts.pixels[:-1].sum()), 1)
    body = [
        (name, part, int(counts.pixels[part]) / labelled, int(counts.images[part]), _share(counts.images[part], counts))
        for part, name in enumerate(taxonomy.classes)
    ]
    ignored = int(counts.pixels[-1])
    text = f"Pixels with the id 255 are ignored and not counted: {ignored:,} in {int(counts.images[-1]):,} labels."
    absent = [name for name, images in zip(taxonomy.classes, counts.images, strict=False) if not images]
    missing = page.note(f"No label has these classes: {', '.join(absent)}.") if absent else ""
    return page.note(text) + missing + page.table("Classes of the labels", columns, body)


def _share(count: int, counts: SetCounts) -> float:
    return int(count) / max(counts.num_labels, 1)


def maps(taxonomy: Taxonomy | None, counts: SetCounts) -> str:
    """A picture for each class: how often labels have it at each place."""
    if taxonomy is None:
        return ""
    pictures = []
    for name, places in zip(taxonomy.classes, counts.places, strict=True):
        if highest := int(places.max()):
            share = f"in up to {100 * highest / counts.num_labels:.2g} % of the labels"
            heat = _heat(places.reshape(GRID, GRID) / highest)
            pictures.append(Picture(heat, f"{name}: where it lies", f"{name}, {share}"))
    text = (
        "Each label is stretched to a square. The brighter a place, the more labels have the class there; the caption "
        "says how many do at the brightest place."
    )
    return page.note(text) + page.gallery("classes", pictures, _MAP_BYTES, small=True) if pictures else ""


def _heat(share: npt.NDArray[np.float64]) -> bytes:
    """A PNG of values 0..1."""
    gray = cv2.resize(np.round(255 * share).astype(np.uint8), (_MAP_SIDE, _MAP_SIDE), interpolation=cv2.INTER_LINEAR)
    colors = cv2.cvtColor(cv2.applyColorMap(gray, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return encode_png(colors.astype(np.uint8, copy=False))


def problems(
    remarks: Mapping[str, int], reasons: Mapping[str, int], found: Mapping[str, Sequence[SampleProblem]]
) -> str:
    """Numbers and examples of remarks and of rejected samples; `found` has the problems of both kinds by title."""
    parts = []
    for title, counts in (("Remarks", remarks), ("Rejected samples", reasons)):
        if not counts:
            parts.append(page.note(f"{title}: none."))
            continue
        parts.append(page.table(title, [Column("Reason"), Column("Number")], list(counts.items())))
        examples = _first(found[title])
        if examples:
            columns = [Column("Reason"), Column("Row or file"), Column("Detail")]
            parts.append(page.table(f"{title}: the first of each reason", columns, examples))
    return "".join(parts)


def _first(found: Sequence[SampleProblem]) -> list[tuple[str, str, str]]:
    by_reason: dict[str, list[SampleProblem]] = {}
    for problem in sorted(found, key=lambda problem: problem["reason"]):
        by_reason.setdefault(problem["reason"], []).append(problem)
    shown = [problem for same in by_reason.values() for problem in same[:_EXAMPLES]]
    return [(problem["reason"], problem["source"], problem["detail"]) for problem in shown]


def random_rows(taxonomy: Taxonomy | None, drawn: Sequence[Drawn], seed: int) -> str:
    shown = [(each, f"{each.id} in {each.split}") for each in drawn]
    text = f"{len(drawn)} rows drawn at random with seed {seed}" + _beside(taxonomy)
    return page.note(text) + _legend(taxonomy) + _gallery("random rows", shown, _RANDOM_BYTES)


def unusual(taxonomy: Taxonomy | None, drawn: Sequence[Drawn], counts: SetCounts) -> str:
    """The labels that differ most from the others."""
    if not drawn:
        return ""
    text = (
        "The surprise of a label is the mean of −log p over a grid of 64 x 64 places, where p is the fraction of "
        "sampled labels that have the same class at the same place; these labels have the highest. They may be wrong, "
        "rotated or cropped otherwise, or show rare parts."
    )
    shown = [
        (each, f"{each.id} in {each.split}, surprise {-found.minus_surprise:.2f}")
        for each, found in zip(drawn, counts.unusual, strict=True)
    ]
    return page.note(text) + _legend(taxonomy) + _gallery("unusual labels", shown, _UNUSUAL_BYTES)


def _beside(taxonomy: Taxonomy | None) -> str:
    return "; beside each image, its label lies over it." if taxonomy else "."


def _legend(taxonomy: Taxonomy | None) -> str:
    if taxonomy is None:
        return ""
    return page.legend(dict(zip(taxonomy.classes[1:], taxonomy.palette[1:], strict=True)))


def _gallery(name: str, drawn: Sequence[tuple[Drawn, str]], budget: int) -> str:
    damaged = [caption for each, caption in drawn if each.picture is None]
    pictures = [Picture(each.picture, caption, caption) for each, caption in drawn if each.picture is not None]
    missing = page.note(f"These rows cannot be decoded: {'; '.join(damaged)}.") if damaged else ""
    return missing + page.gallery(name, pictures, budget)
