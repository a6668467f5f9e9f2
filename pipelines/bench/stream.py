"""Images/s of the training stream, through Ray, against a plain torch DataLoader with as many processes.

python -m pipelines.bench.stream        about four minutes on 2 cores

Rows are 1024x1024 JPEGs of about 350 kB with 512x512 labels; batches are 8 x 473 x 473. The DataLoader is written like
the usual training code for this method: it reads loose files, decodes them at full size, warps image, label and edge
map, and normalizes to float32. The stream yields uint8; the training step normalizes and computes edges. Both are timed
alternately, after the batches that they prepared while they started. `floor` is twice the speed of decoding alone in
this process, without Ray.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dmlcsr.augment import Augmentation, canvas_to_image, decode_factor, draw_pose
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.data import dataset, row_groups
from pipelines.data.dataset import Manifest, Row
from pipelines.data.images import encode_png
from pipelines.data.stream import TrainStream
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

SIDE, CANVAS, BATCH, TASKS = 1024, 473, 8, 2
NUM_ROWS, NUM_UNIQUE = 640, 48
WARM_BATCHES, TIMED_BATCHES = 32, 160
"""Batches that are skipped, more than either side prepares in advance, and batches that are timed."""
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def make_pair(index: int) -> tuple[bytes, bytes]:
    """A JPEG (4:2:0, quality 92) of a face with sensor noise, and a PNG of its label at half the resolution."""
    face = render_face(0, index, SIDE)
    noise = np.random.default_rng(index).normal(0, 7, (SIDE, SIDE, 3))
    noisy = np.clip(face.image + noise, 0, 255).astype(np.uint8)
    image = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()
    return image, encode_png(np.ascontiguousarray(face.label[::2, ::2]))


def make_data(folder: Path) -> float:
    """Writes the rows as a packed data set `packed` and as loose files `loose`.

    Returns the mean size of an image in kB.
    """
    pairs = [make_pair(index) for index in range(NUM_UNIQUE)]
    rows: list[Row] = []
    (folder / "loose").mkdir()
    for number in range(NUM_ROWS):
        image, label = pairs[number % NUM_UNIQUE]
        (folder / "loose" / f"{number}.jpg").write_bytes(image)
        (folder / "loose" / f"{number}.png").write_bytes(label)
        rows.append(Row(id=f"{number}", image=image, label=label, height=SIDE, width=SIDE, meta="{}"))
    out = str(folder / "packed")
    parts = [(f"train/part-{start:05d}", rows[start : start + 160]) for start in range(0, NUM_ROWS, 160)]
    files = tuple(file for name, part in parts if (file := dataset.write_file(out, name, part)) is not None)
    manifest = Manifest(
        label_taxonomy=CELEBAMASK_HQ,
        splits={"train": files},
        digest=dataset.digest_of({"train": files}),
    )
    dataset.finish_build(out, manifest.model_dump(mode="json"))
    return statistics.mean(len(image) for image, _ in pairs) / 1e3


class PlainFaces(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The samples of the DataLoader: image (3, S, S) float32, label and edge map (S, S) int64."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return (WARM_BATCHES + 2 * TIMED_BATCHES) * BATCH

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        cv2.setNumThreads(1)
        number = index % NUM_ROWS
        image: Any = cv2.imread(str(self.folder / f"{number}.jpg"), cv2.IMREAD_COLOR_RGB)
        label: Any = cv2.imread(str(self.folder / f"{number}.png"), cv2.IMREAD_GRAYSCALE)
        edge = (cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0).astype(np.uint8)
        pose = draw_pose(Augmentation(), 0, index // NUM_ROWS, str(number))

        def warp(array: Any, interpolation: int, border: int) -> Any:
            matrix = canvas_to_image(array.shape[0], array.shape[1], CANVAS, pose)
            flags = interpolation | cv2.WARP_INVERSE_MAP
            return cv2.warpAffine(array, matrix, (CANVAS, CANVAS), flags=flags, borderValue=border)

        pixels = torch.from_numpy(warp(image, cv2.INTER_LINEAR, 0)).permute(2, 0, 1).float() / 255
        target, edges = (torch.from_numpy(warp(array, cv2.INTER_NEAREST, 255)).long() for array in (label, edge))
        return (pixels - MEAN) / STD, target, edges


def plain_batches(folder: Path) -> Iterator[Any]:
    # Spawned, not forked: a forked process could inherit a lock that a thread of Ray holds, and wait without end.
    faces = PlainFaces(folder / "loose")
    return iter(DataLoader(faces, BATCH, shuffle=True, num_workers=TASKS, multiprocessing_context="spawn"))


def train_stream(folder: Path) -> TrainStream:
    uri = str(folder / "packed")
    source = row_groups.open_split(uri, dataset.read_manifest(uri), "train")
    return TrainStream(
        source=source, augmentation=Augmentation(), size=CANVAS, batch_size=BATCH, seed=0, rank=0, world_size=1
    )


def images_per_second(batches: Iterator[Any]) -> float:
    """Images/s of batches that are discarded, after WARM_BATCHES that are not timed."""
    for _ in range(WARM_BATCHES):
        next(batches)
    begin = time.perf_counter()
    for _ in range(TIMED_BATCHES):
        next(batches)
    return TIMED_BATCHES * BATCH / (time.perf_counter() - begin)


def floor_per_second(train: TrainStream, epoch: int) -> float:
    """Images/s of TASKS processes that only decode, estimated from this process."""
    begin = time.perf_counter()
    rows = train.share.num_taken
    parts = islice(train.parts(epoch * rows, (epoch + 1) * rows), 4)
    num_rows = sum(len(train.decode(part)["label"]) for part in parts)
    return TASKS * num_rows / (time.perf_counter() - begin)


def reduced_share(train: TrainStream) -> float:
    """The fraction of the rows whose pose allows decoding at half size or less."""
    poses = [draw_pose(train.augmentation, 0, epoch, str(row)) for epoch in range(4) for row in range(NUM_ROWS)]
    return statistics.mean(decode_factor(SIDE, SIDE, CANVAS, pose) > 1 for pose in poses)


def print_first_batch(folder: Path) -> None:
    """Does the work of a command up to its first batch, and prints the batch size."""
    with ray_session(Needs(cpus=TASKS)):
        print(next(train_stream(folder).batches(0, 1, TASKS))["image"].shape[0], flush=True)


def seconds_to_first_batch(folder: Path) -> float:
    """Seconds from the start of a command until it has a batch; the command starts Ray."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "pipelines.bench.stream", "--first-batch", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline().strip() == str(BATCH).encode()
        return time.perf_counter() - begin


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    train = train_stream(folder)
    speeds: dict[str, list[float]] = {"plain": [], "stream": [], "floor": []}
    with ray_session(Needs(cpus=TASKS)):
        for epoch in range(0, rounds * 10, 10):
            speeds["plain"].append(images_per_second(plain_batches(folder)))
            speeds["stream"].append(images_per_second(train.batches(epoch, epoch + 10, TASKS)))
            speeds["floor"].append(floor_per_second(train, epoch))
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-batch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_batch:
        print_first_batch(arguments.first_batch)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kilobytes = make_data(folder)
        first = seconds_to_first_batch(folder)
        speeds = measure(folder, arguments.rounds)
        reduced = reduced_share(train_stream(folder))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    result = {"image_kilobytes": kilobytes, "reduced_share": reduced, "seconds_to_first_batch": first}
    ratios = {f"{name}_ratio": medians[name] / medians["plain"] for name in ("stream", "floor")}
    print(json.dumps({"ratio": ratios["stream_ratio"]} | result | medians | ratios | {"all": speeds}))


if __name__ == "__main__":
    main()
