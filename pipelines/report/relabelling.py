"""Sections about a relabelled data set: changed pixels, confused classes, labels to review."""

from collections.abc import Mapping
from typing import Any

from pipelines import storage
from pipelines.data import dataset
from pipelines.data.dataset import Manifest
from pipelines.errors import UserError
from pipelines.relabeling import suspects
from pipelines.relabeling.counts import Suspect
from pipelines.report import page
from pipelines.report.page import Column, Picture
from pipelines.report.training import PICTURE_BYTES, Sections

_PICTURES = 60
"""Largest number of pictures: more would have to be too small to show anything."""
_NAMES = {"tta": "Test-time augmentation"}


def sections(uri: str, manifest: Manifest) -> Sections:
    """Sections about a data set. If it was not relabelled, there is only an overview.

    Raises UserError if the manifest is damaged.
    """
    found: Mapping[str, Any] = manifest.relabelled or {}
    try:
        return [
            ("What was made", _overview(uri, manifest, found)),
            ("What changed", _changes(found)),
            ("Quality of the labels before", _quality(found)),
            ("Suspects", _suspects(uri) if found else ""),
        ]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{uri}/{dataset.MANIFEST} is damaged at `relabelled`: {error!r}") from error


def _overview(uri: str, manifest: Manifest, found: Mapping[str, Any]) -> str:
    rows = ", ".join(f"{count:,} {split}" for split, count in manifest.num_rows().items())
    classes = manifest.label_taxonomy.name if manifest.label_taxonomy else "none, the faces have no labels"
    text: dict[str, object] = {"Rows": rows, "Classes": classes, "Bad rows": manifest.num_quarantined}
    for name, value in manifest.lineage.items():
        if value is not None:
            text[_NAMES.get(name, name.replace("_", " ").capitalize())] = _text(value)
    hint = "" if found else page.note("This data set was not relabelled. `relabel` makes a relabelled version.")
    return hint + page.facts(text)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _changes(found: Mapping[str, Any]) -> str:
    if not found:
        return ""
    pixels = max(found["num_pixels"], 1)
    changed = found["changed_pixels"]
    rows = [
        (pair, count, count / max(found["num_changed_pixels"], 1), count / pixels) for pair, count in changed.items()
    ]
    columns = [
        Column("Before > after"), Column("Pixels"), Column("Of the changed", percent=True, bar=True),
        Column("Of all", percent=True, digits=4),
    ]  # fmt: skip
    facts = {
        "Rows": f"{found['num_rows']:,}",
        "Rows with another label": f"{found['num_changed_rows']:,}",
        "Pixels that changed": f"{found['num_changed_pixels']:,} ({100 * found['num_changed_pixels'] / pixels:.2f} %)",
    }
    return page.facts(facts) + page.table("Confused pairs of classes", columns, rows, filtered=True)


def _quality(found: Mapping[str, Any]) -> str:
    if not found or found["mean_quality"] is None:
        return ""
    columns = [Column("Class"), Column("Mean quality", digits=3, bar=True)]
    text = page.note(f"Mean over the rows: {found['mean_quality']:.3f}. 0 is wrong, 1 is right.")
    return text + page.table("Quality per class", columns, list(found["class_quality"].items()))


def _suspects(uri: str) -> str:
    worst = suspects.worst(uri)
    if not worst:
        return page.note("No row had a label before, so there is nothing to rank.")
    columns = [Column("Row"), Column("Quality", digits=3, bar=True), Column("File"), Column("Row of the file")]
    rows = [(suspect.id, suspect.quality, suspect.path, suspect.row) for suspect in worst]
    return _pictures(uri, worst) + page.table(f"The {len(worst)} worst labels", columns, rows, filtered=True)


def _pictures(uri: str, worst: list[Suspect]) -> str:
    folder = storage.join(uri, suspects.FOLDER, "overlays")
    uris = [] if storage.is_empty(folder) else storage.list_files(folder)[:_PICTURES]
    if not uris:
        return page.note("To add pictures of the N worst rows, repeat the relabel command with --suspects N.")
    shown = []
    for suspect, data in zip(worst, storage.read_many(uris), strict=False):  # both in order, worst first
        if isinstance(data, bytes):
            alt = f"{suspect.id}: image, label before, label after and changed pixels, side by side"
            shown.append(Picture(data, alt, f"{suspect.id}, quality {suspect.quality:.3f}"))
    text = page.note("From left to right: image, label before, label after, and in red the changed pixels.")
    return text + page.gallery("suspects", shown, PICTURE_BYTES, filtered=True)
