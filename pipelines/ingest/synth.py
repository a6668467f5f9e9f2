"""`synth` writes a data set, or a raw folder, of procedural faces with exact labels."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import cv2

from dmlcsr.synthetic import corrupt_label, encode_image, face_id, is_corrupted, render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines import storage
from pipelines.config.base import Split
from pipelines.config.commands import SynthConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.data.images import encode_png
from pipelines.data.packing import PackedRows
from pipelines.ingest.pack import make_shards, pack
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
    return {"out": config.out, "num_rows": Faces(config.num_images).num_rows()}


def _marker(config: SynthConfig) -> str:
    return dataset.MANIFEST if config.layout == "packed" else PAIRS_MARKER


def summary(result: SynthResult) -> str:
    counts = ", ".join(f"{count} {split}" for split, count in result["num_rows"].items())
    return f"wrote {counts} faces to {result['out']}"


class Faces(NamedTuple):
    """The faces of a data set, as items (split, index): of every ten, eight are train, one is val, one is test.

    The split depends on the index alone, so a larger data set keeps every face in its split.
    """

    num_images: int

    def num_rows(self) -> dict[Split, int]:
        tens, rest = divmod(self.num_images, 10)
        return {"train": 8 * tens + min(rest, 8), "val": tens + (rest > 8), "test": tens}

    def read(self, split: Split, start: int, stop: int) -> list[tuple[Split, int]]:
        """Faces `start` to before `stop` of a split."""
        first = {"train": 0, "val": 8, "test": 9}[split]
        per_ten = 8 if split == "train" else 1
        return [(split, 10 * (place // per_ten) + first + place % per_ten) for place in range(start, stop)]


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

    mean_bytes = len(make_row(config, "train", 0)["image"])
    with ray_session(Needs(cpus=1), [config.out]):
        pack(config.out, Faces(config.num_images), make_rows, mean_bytes, CELEBAMASK_HQ, lineage)


def _write_pairs(config: SynthConfig, lineage: dict[str, Any]) -> None:
    """Writes `<out>/<split>/{images,labels}/<id>.{jpg,png}`, then `<out>/meta.jsonl`, and last `<out>/synth.json`."""

    faces = Faces(config.num_images)

    def write(shard: packing.Shard) -> dict[str, Any]:
        return {"meta": [_write_pair(config, split, index) for split, index in faces.read(shard.split, *shard.work)]}

    with ray_session(Needs(cpus=1), [config.out]):
        shards = make_shards(faces.num_rows(), 0)
        lines = [line for answer in packing.map_shards(config.out, shards, write) for line in answer["meta"]]
    storage.write_bytes(storage.join(config.out, "meta.jsonl"), "\n".join(sorted(lines)).encode())
    dataset.finish_build(config.out, {"lineage": lineage}, PAIRS_MARKER)


def _write_pair(config: SynthConfig, split: Split, index: int) -> str:
    row = make_row(config, split, index)
    folder = storage.join(config.out, split)
    storage.write_bytes(storage.join(folder, "images", f"{row['id']}.jpg"), row["image"])
    storage.write_bytes(storage.join(folder, "labels", f"{row['id']}.png"), row["label"] or b"")
    return json.dumps({"id": face_id(config.seed, index), "split": split} | json.loads(row["meta"]))
