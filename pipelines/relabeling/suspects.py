"""Files about the rows with the worst labels: a gallery to look at, and imports for labelling tools."""

import html
import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image
from pydantic import TypeAdapter, ValidationError

from dmlcsr import image_files
from dmlcsr.taxonomy import IGNORE, Taxonomy
from pipelines import storage
from pipelines.config.base import Split
from pipelines.data import row_groups
from pipelines.data.dataset import Manifest
from pipelines.data.images import Pixels, decode_image, decode_label, encode_png
from pipelines.data.row_groups import RowRange
from pipelines.data.versions import with_previous_labels
from pipelines.errors import UserError
from pipelines.inference.overlay import comparison
from pipelines.relabeling.counts import Suspect
from pipelines.relabeling.masks import brush_rle, coco_counts

logger = logging.getLogger(__name__)
FOLDER = "suspects"
"""Folder of these files below the new version."""
WORST = "worst.json"
"""File beside the manifest that lists the rows with the worst labels, worst first."""
_WORST = TypeAdapter(list[Suspect])
COCO, COCO_BEFORE = "coco.json", "coco_before.json"
TASK_FILE_BYTES = 200_000_000
"""Largest size of a file of tasks. Label Studio refuses imports of more than 250 MB."""


class WorstRow(NamedTuple):
    """A suspect with its image (H, W, 3) and its old and new label, both (H, W) class ids."""

    suspect: Suspect
    file: str
    """Name of the image's file."""
    encoded: bytes
    """Content of the image's file."""
    image: Pixels
    before: Pixels
    after: Pixels


def write(out: str, num: int, manifest: Manifest) -> None:
    """Writes the folder `suspects/` of a finished version, unless it already holds `num` rows.

    Contents: `index.html` and `overlays/` to look at, `images/`, `coco.json` (new labels), `coco_before.json` (old
    labels), `label_studio-00000.json`, ... (both) and `label_studio.xml` (the labelling interface).
    """
    found = worst(out)[:num]
    folder = storage.join(out, FOLDER)
    marker = storage.join(folder, COCO)
    if num and not found:
        logger.info("no row had a label, so suspects cannot be ranked")
    written = storage.find_json(marker) or {}
    if not found or len(written.get("images", [])) == len(found):
        return
    storage.delete_folder(folder)
    taxonomy = manifest.taxonomy
    after, before = _Coco(taxonomy, f"labels of {out}"), _Coco(taxonomy, f"labels before {out}")
    tasks, entries = _TaskFiles(folder), []
    for case in _cases(out, manifest, found):
        differs = case.before != case.after
        picture = encode_png(comparison(case.image, case.before, case.after, differs, taxonomy))
        storage.write_bytes(storage.join(folder, "overlays", f"{case.file}.png"), picture)
        storage.write_bytes(storage.join(folder, "images", case.file), case.encoded)
        after.add(case, case.after)
        before.add(case, case.before)
        tasks.add(json.dumps(_task(folder, case, taxonomy)))  # as text: lists of numbers need ten times the memory
        entries.append(_entry(case, float(differs.mean())))
    tasks.write()
    storage.write_bytes(storage.join(folder, "label_studio.xml"), _interface(taxonomy).encode())
    storage.write_bytes(storage.join(folder, "index.html"), _page(entries).encode())
    storage.write_bytes(storage.join(folder, COCO_BEFORE), before.text().encode())
    storage.write_bytes(marker, after.text().encode())
    logger.info("the %d rows with the worst labels are in %s", len(found), folder)


def worst(out: str) -> list[Suspect]:
    """The rows with the worst labels, worst first. Raises UserError if `worst.json` is missing or damaged."""
    uri = storage.join(out, WORST)
    try:
        return _WORST.validate_python(storage.read_json(uri).get("worst"))
    except ValidationError as error:
        raise UserError(f"{uri} is damaged: {error.errors()[0]['msg']}") from error


def _cases(out: str, manifest: Manifest, found: Sequence[Suspect]) -> Iterator[WorstRow]:
    size = manifest.rows_per_group
    indices = {
        file.path: (split, index) for split, files in manifest.splits.items() for index, file in enumerate(files)
    }
    for number, suspect in enumerate(found, start=1):
        if suspect.path not in indices:
            raise UserError(f"{out}/{WORST} is damaged: it names {suspect.path}, which is not a file of the data set")
        split, file = indices[suspect.path]
        piece = RowRange(file, suspect.row // size, suspect.row % size, suspect.row % size + 1)
        (row,) = row_groups.read_rows(row_groups.open_split(out, manifest, split), [piece], ("id", "image", "label"))
        image = decode_image(row["image"])
        labels = [
            _as_large(decode_label(label), image)
            for label in (_label_before(out, manifest, split, piece), row["label"])
        ]
        encoded, suffix = _upright(row["image"], image)
        short = re.sub(r"[^A-Za-z0-9_-]", "_", row["id"])[:100]  # an id may be longer than the name of a file
        name = f"{number:04d}-{short}.{suffix}"
        yield WorstRow(suspect, name, encoded, image, *labels)


def _label_before(out: str, manifest: Manifest, split: Split, piece: RowRange) -> bytes | None:
    """The label that `relabel` replaced: in the file of the version before, or in a column of formats 1 to 3."""
    is_apart = manifest.splits[split][piece.file].previous is not None
    column = "label" if is_apart else "label_previous"
    source = row_groups.open_split(out, with_previous_labels(manifest), split)
    (row,) = row_groups.read_rows(source, [piece], [column])
    label: bytes | None = row[column]
    return label


def _upright(encoded: bytes, image: Pixels) -> tuple[bytes, str]:
    """The bytes of an image file and the suffix of its format.

    An image that an EXIF tag rotates is encoded again as an upright PNG, because not every tool reads the tag and the
    labels belong to the upright image.
    """
    opened = Image.open(io.BytesIO(encoded), formats=image_files.FORMATS)
    if opened.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        return encode_png(image), "png"
    kind = (opened.format or "").lower()
    return encoded, {"jpeg": "jpg", "mpo": "jpg"}.get(kind, kind)


def _as_large(label: Pixels, image: Pixels) -> Pixels:
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.resize(label, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _categories(taxonomy: Taxonomy) -> list[tuple[int, str]]:
    """The ids and names of the classes that get a mask: all but the background, and `ignored`."""
    return [*list(enumerate(taxonomy.classes))[1:], (IGNORE, "ignored")]


class _Coco:
    """A COCO file of masks as compressed run lengths."""

    def __init__(self, taxonomy: Taxonomy, description: str) -> None:
        self.info = {"description": description, "version": "1.0"}
        self.categories = _categories(taxonomy)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[str] = []
        """JSON texts, because lists of numbers need ten times the memory."""

    def add(self, case: WorstRow, label: Pixels) -> None:
        number = len(self.images) + 1
        height, width = label.shape
        self.images.append({"id": number, "file_name": case.file, "width": width, "height": height})
        for category, _ in self.categories:
            mask = label == category
            if mask.any():
                left, top, wide, high = cv2.boundingRect(mask.astype(np.uint8))
                annotation = {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": category,
                    "segmentation": {"size": [height, width], "counts": coco_counts(mask)},
                    "area": int(mask.sum()),
                    "bbox": [left, top, wide, high],
                    "iscrowd": 0,  # detectron2 and ultralytics drop the others
                }
                self.annotations.append(json.dumps(annotation))

    def text(self) -> str:
        """The content of the file."""
        named = [{"id": number, "name": name, "supercategory": "face"} for number, name in self.categories]
        head = json.dumps({"info": self.info, "licenses": [], "images": self.images, "categories": named})
        return f'{head[:-1]}, "annotations": [{",".join(self.annotations)}]}}'


class _TaskFiles:
    """The tasks for Label Studio, in as many files as its limit on imports requires."""

    def __init__(self, folder: str, max_bytes: int = TASK_FILE_BYTES) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self.waiting: list[str] = []
        self.num_files = 0

    def add(self, task: str) -> None:
        """Adds a task as JSON text of ASCII. Writes the tasks before it if they would become too many for one file."""
        if self.waiting and sum(map(len, self.waiting)) + len(self.waiting) + len(task) + 2 > self.max_bytes:
            self.write()
        self.waiting.append(task)

    def write(self) -> None:
        """Writes the waiting tasks to the next file."""
        name = f"label_studio-{self.num_files:05d}.json"
        storage.write_bytes(storage.join(self.folder, name), f"[{','.join(self.waiting)}]".encode())
        self.waiting, self.num_files = [], self.num_files + 1


def _task(folder: str, case: WorstRow, taxonomy: Taxonomy) -> dict[str, Any]:
    """A Label Studio task with two predictions, one for each label."""
    is_remote = folder.startswith("s3://")
    path = f"images/{case.file}"
    image = storage.join(folder, path) if is_remote else f"/data/local-files/?d={path}"
    return {
        "data": {"image": image, "id": case.suspect.id, "quality": case.suspect.quality},
        "predictions": [
            {"model_version": version, "result": _regions(label, taxonomy)}
            for version, label in (("label after", case.after), ("label before", case.before))
        ],
    }


def _regions(label: Pixels, taxonomy: Taxonomy) -> list[dict[str, Any]]:
    height, width = label.shape
    return [
        {
            "id": f"class-{number}",
            "from_name": "class",
            "to_name": "image",
            "type": "brushlabels",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": brush_rle(label == number), "brushlabels": [name]},
        }
        for number, name in _categories(taxonomy)
        if (label == number).any()
    ]


def _interface(taxonomy: Taxonomy) -> str:
    colors = {
        number: "#{:02x}{:02x}{:02x}".format(*taxonomy.colorize(np.array([[number]], np.uint8))[0, 0])
        for number, _ in _categories(taxonomy)
    }
    labels = "\n".join(
        f'    <Label value="{html.escape(name)}" background="{colors[number]}"/>'
        for number, name in _categories(taxonomy)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <BrushLabels name="class" toName="image">\n{labels}\n  </BrushLabels>\n</View>\n'
    )


def _entry(case: WorstRow, changed: float) -> str:
    caption = f"{case.suspect.id}: quality {case.suspect.quality:.3f}, {changed:.1%} of the pixels changed"
    picture = f'<img loading="lazy" src="overlays/{case.file}.png" alt="">'
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _page(entries: Sequence[str]) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Worst labels</title>'
        "<style>body{font:16px sans-serif;margin:2em auto;max-width:1400px}figure{margin:0 0 2em}"
        "img{width:100%;image-rendering:pixelated}</style>"
        f"<h1>The {len(entries)} worst labels</h1>"
        "<p>From left to right: the image, the label before, the label after, and the changed pixels in red.</p>"
        f"{''.join(entries)}</html>"
    )
