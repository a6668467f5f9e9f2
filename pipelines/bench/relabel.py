"""Speed of `relabel` against its parts, and memory of its driver.

python -m pipelines.bench.relabel                 2,000 faces of 256 pixels, `cpu-small`: about five minutes on 2 cores
python -m pipelines.bench.relabel --rows 1000000  10^3 rows, then 10^6 tiny rows and a trivial model

The parts (decode, forward, quality and refinement, encode) are timed one after the other on the same rows, in one
process per actor, all at the same time. Their limit is actors / (sum of seconds per image). It is compared with the
images/s of the whole command, with and without its start (Ray, actors, model).
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from dmlcsr.model import Architecture, FaceParser
from dmlcsr.predict import to_canvas
from dmlcsr.refine import Policy, refine
from dmlcsr.synthetic import face_id
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import ModelCard, Preprocessing
from pipelines.config.commands import ActorsConfig, RelabelConfig, SynthConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.data.images import decode_image, decode_label, encode_png
from pipelines.ingest import synth
from pipelines.models import model_directory
from pipelines.models.actors import load_predictor
from pipelines.relabeling import relabel
from pipelines.run import console
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

ACTORS, BATCH = 2, 8
KNOWN = 64
"""Number of different faces. The data set repeats them under other ids, because rendering takes long."""


def faces(image_size: int) -> list[Row]:
    config = SynthConfig(out="/unused", image_size=image_size)
    return [synth.make_row(config, "train", index) for index in range(KNOWN)]


def write_data(out: str, known: list[Row], num_rows: int, rows_per_file: int) -> None:
    """Writes a data set with a training split of `num_rows` rows."""
    rows: Iterator[Row] = (Row(**{**known[n % KNOWN], "id": face_id(0, n)}) for n in range(num_rows))
    lineage = {"command": "benchmark", "num_rows": num_rows}
    files = []
    for number in range(-(-num_rows // rows_per_file)):
        file = dataset.write_file(out, f"train/part-{number:05d}", islice(rows, rows_per_file))
        assert file is not None
        files.append(file)
    packing.write_manifest(out, CELEBAMASK_HQ, {"train": files}, [], lineage)


def write_model(out: str, width: float, size: int) -> None:
    torch.manual_seed(0)
    architecture = Architecture(num_classes=19, depth=18, width=width)
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=size))
    model_directory.write_model(out, FaceParser(architecture).eval(), card)


def seconds_of_parts(model: str, image_size: int, repeats: int = 4) -> dict[str, float]:
    """Seconds per image of each part in this process. The first round only warms up."""
    predictor, rows = load_predictor(model, use_gpu=False, tta=False), faces(image_size)
    sums = dict.fromkeys(("decode", "forward", "quality", "encode"), 0.0)
    for turn in range(repeats + 1):
        for start in range(0, KNOWN, BATCH):
            batch, clock = rows[start : start + BATCH], [time.perf_counter()]
            images = [decode_image(row["image"]) for row in batch]
            labels = [decode_label(row["label"]) for row in batch]
            canvases = np.stack([to_canvas(image, predictor.preprocessing) for image in images])
            clock.append(time.perf_counter())
            predictions = predictor.predict(canvases, [(label.shape[0], label.shape[1]) for label in labels])
            clock.append(time.perf_counter())
            pairs = zip(predictions, labels, strict=True)
            refined = [refine(prediction.strips(), label, Policy(name="replace")) for prediction, label in pairs]
            clock.append(time.perf_counter())
            for one in refined:
                encode_png(one.label)
            clock.append(time.perf_counter())
            if turn:
                for name, seconds in zip(sums, np.diff(clock), strict=True):
                    sums[name] += float(seconds) / (repeats * KNOWN)
    return sums


def speed(num_rows: int, image_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, data, out = (str(Path(folder, name)) for name in ("model", "data", "out"))
        write_model(model, width=0.25, size=128)
        write_data(data, faces(image_size), num_rows, 128)
        ratios = []
        for turn in (1, 2):
            with multiprocessing.get_context("spawn").Pool(ACTORS) as pool:
                measured = pool.starmap(seconds_of_parts, [(model, image_size)] * ACTORS)
            parts = {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}
            allowed = ACTORS / sum(parts.values())
            print(", ".join(f"{name} {1000 * value:.2f} ms" for name, value in parts.items()), flush=True)
            begin = time.time()
            run(model, data, f"{out}-{turn}", ActorsConfig(min_actors=ACTORS, max_actors=ACTORS, batch_size=BATCH))
            whole = num_rows / (time.time() - begin)
            written = sorted((path.stat().st_mtime, path) for path in Path(f"{out}-{turn}", "train").iterdir())
            first = written[ACTORS - 1][0]
            counts = {file.path: file.num_rows for file in dataset.read_manifest(f"{out}-{turn}").splits["train"]}
            later = sum(counts[f"train/{path.name}"] for when, path in written if when > first)
            steady = later / (written[-1][0] - first)
            print(f"limit of the parts {allowed:.1f} images/s; after each actor's first file {steady:.1f}", end=" ")
            print(
                f"= {steady / allowed:.2f}; including the start {whole:.1f} images/s = {whole / allowed:.2f}",
                flush=True,
            )
            ratios.append(steady / allowed)
    print(json.dumps({"ratio": statistics.median(ratios), "all": ratios}))


def run(model: str, data: str, out: str, actors: ActorsConfig) -> None:
    with ray_session(Needs(cpus=actors.min_actors + 1)):
        relabel.run(RelabelConfig(model=model, data=data, out=out, policy="replace", actors=actors))


def peak_memory(model: str, data: str, out: str, num_rows: int) -> None:
    """Relabels the data and prints time, files, and the peak resident memory of this process, the driver."""
    begin = time.monotonic()
    with console.logging_to_console(verbose=False):
        run(model, data, out, ActorsConfig(min_actors=ACTORS, max_actors=ACTORS, batch_size=64))
    sizes = [file.num_bytes / 2**20 for file in dataset.read_manifest(out).splits["train"]]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{num_rows} rows: {time.monotonic() - begin:.0f} s, peak {peak:.0f} MB in the driver, "
        f"{len(sizes)} files of {min(sizes):.0f} to {max(sizes):.0f} MB",
        flush=True,
    )


def memory(num_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model"))
        write_model(model, width=0.0625, size=32)
        for count in (1000, num_rows):
            data, out = str(Path(folder, f"data-{count}")), str(Path(folder, f"out-{count}"))
            write_data(data, faces(32), count, 4096)
            process = multiprocessing.get_context("spawn").Process(target=peak_memory, args=(model, data, out, count))
            process.start()
            process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-images", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.rows:
        memory(arguments.rows)
    else:
        speed(arguments.num_images, arguments.image_size)


if __name__ == "__main__":
    main()
