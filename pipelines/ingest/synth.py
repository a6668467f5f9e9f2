"""`synth` writes a data set, or a raw folder, of procedural faces with exact labels."""

import json
from collections.abc import Sequence
from typing import Any, TypedDict

import cv2

from dmlcsr.synthetic import corrupt_label, encode_image, face_id, is_corrupted, render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines import storage
from pipelines.config.base import SPLITS, Split
from pipelines.config.commands import SynthConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.data.images import encode_png
from pipelines.data.packing import PackedRows
from pipelines.run import claims
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

PAIRS_MARKER = "synth.json"
"""Name of the file that marks a raw folder as complete; it is written last."""


class SynthResult(TypedDict):
    """The result of `synth`."""

    out: str
    num_rows: dict[Split, int]


def run(config: SynthConfig) -> SynthResult:
    """Writes the faces."""
    config = claims.find_claim("synth", config, config.out) or config
    if not dataset.is_complete(config.out, _marker(config)):
        with claims.claim_output("synth", config, config.out):
            if not dataset.is_complete(config.out, _marker(config)):
                lineage = {"command": "synth"} | config.model_dump(exclude={"out"})
                (_write_packed if config.layout == "packed" else _write_pairs)(config, lineage)
    return {"out": config.out, "num_rows": {split: len(items) for split, items in _by_split(config).items()}}


def _marker(config: SynthConfig) -> str:
    return dataset.MANIFEST if config.layout == "packed" else PAIRS_MARKER


def summary(result: SynthResult) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    return f"wrote {counts} faces to {result['out']}"


def split_of(index: int) -> Split:
    """The split of face `index`: eight of every ten faces are train, one is val, one is test.

    It depends on the index alone, so a larger data set keeps every face in its split.
    """
    if index % 10 < 8:
        return "train"
    return "val" if index % 10 == 8 else "test"


def _by_split(config: SynthConfig) -> dict[Split, list[tuple[Split, int]]]:
    items: dict[Split, list[tuple[Split, int]]] = {split: [] for split in SPLITS}
    for index in range(config.num_images):
        items[split_of(index)].append((split_of(index), index))
    return items


def make_row(config: SynthConfig, split: Split, index: int) -> Row:
    """Renders one face as a row: JPEG image and PNG label, and in `meta` JSON facts about the face.

    A fraction `config.label_noise` of the training labels is corrupted; `meta` then names the kind of corruption.
    """
    cv2.setNumThreads(1)
    face = render_face(config.seed, index, config.image_size)
    label, corruption = face.label, None
    if split == "train" and is_corrupted(config.seed, index, config.label_noise):
        label, corruption = corrupt_label(label, config.seed, index)
    return Row(
        id=face.id,
        image=encode_image(face),
        label=encode_png(label),
        height=label.shape[0],
        width=label.shape[1],
        meta=json.dumps(face.meta | {"corruption": corruption}, sort_keys=True),
    )


def _write_packed(config: SynthConfig, lineage: dict[str, Any]) -> None:
    def make_rows(items: Sequence[tuple[Split, int]]) -> PackedRows:
        return PackedRows([make_row(config, split, index) for split, index in items], [], [])

    with ray_session(Needs(cpus=1), [config.out]):
        packing.pack(config.out, _by_split(config), make_rows, CELEBAMASK_HQ, lineage)


def _write_pairs(config: SynthConfig, lineage: dict[str, Any]) -> None:
    """Writes `<out>/<split>/{images,labels}/<id>.{jpg,png}`, then `<out>/meta.jsonl`, and last `<out>/synth.json`."""

    def write(shard: packing.Shard) -> dict[str, Any]:
        return {"meta": [_write_pair(config, split, index) for split, index in shard.work]}

    with ray_session(Needs(cpus=1), [config.out]):
        shards = packing.make_shards(_by_split(config), dataset.ROWS_PER_GROUP * dataset.GROUPS_PER_FILE)
        lines = [line for answer in packing.map_shards(config.out, shards, write) for line in answer["meta"]]
    storage.write_bytes(storage.join(config.out, "meta.jsonl"), "\n".join(sorted(lines)).encode())
    dataset.finish_build(config.out, {"lineage": lineage}, PAIRS_MARKER)


def _write_pair(config: SynthConfig, split: Split, index: int) -> str:
    row = make_row(config, split, index)
    folder = storage.join(config.out, split)
    storage.write_bytes(storage.join(folder, "images", f"{row['id']}.jpg"), row["image"])
    storage.write_bytes(storage.join(folder, "labels", f"{row['id']}.png"), row["label"] or b"")
    return json.dumps({"id": face_id(config.seed, index), "split": split} | json.loads(row["meta"]))
