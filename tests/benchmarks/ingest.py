"""Rate of `ingest` on a tree of CelebAMask-HQ's shape: many small part files.

python -m tests.benchmarks.ingest                      30,000 samples, 400,000 files on disk: about 15 minutes
python -m tests.benchmarks.ingest --samples 3000 --s3  a tenth, and the same from and to a local S3 server

The images are small (64x64, masks 32x32), so that names, requests and tasks are what is measured, not decoding. Prints
seconds and peak memory of the listing (in this process), and the rate of the whole command.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cluster.object_store import client, object_store
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config.commands import IngestConfig
from pipelines.ingest.listing import list_source

ROOT = Path(__file__).parents[2]
NUM_FACES, SIDE = 64, 64
FIRST_VAL, FIRST_TEST = 162770, 182637


def face_files(index: int) -> tuple[bytes, dict[str, bytes]]:
    """A JPEG, and a mask of half its size for each part that the face shows."""
    face = render_face(0, index, SIDE)
    small = face.label[::2, ::2]
    masks = {}
    for part, name in enumerate(CELEBAMASK_HQ.classes):
        mask = 255 * (small == part).astype(np.uint8)
        if part and mask.any():
            masks[name] = cv2.imencode(".png", mask)[1].tobytes()
    return cv2.imencode(".jpg", face.image)[1].tobytes(), masks


def write_tree(folder: Path, num_samples: int) -> int:
    """Writes the tree; the number of files."""
    with ProcessPoolExecutor(2) as pool:
        faces = list(pool.map(face_files, range(NUM_FACES)))
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    count, lines = 0, ["idx orig_idx orig_file"]
    for number in range(num_samples):
        image, masks = faces[number % NUM_FACES]
        place = folder / "CelebAMask-HQ-mask-anno" / str(number // 2000)
        place.mkdir(parents=True, exist_ok=True)
        (folder / "CelebA-HQ-img" / f"{number}.jpg").write_bytes(image)
        for name, mask in masks.items():
            (place / f"{number:05d}_{name}.png").write_bytes(mask)
        count += 1 + len(masks)
        # The published split's sizes, in order.
        original = number if number < 24183 else FIRST_VAL if number < 24183 + 2993 else FIRST_TEST
        lines.append(f"{number} {original} {original + 1:06d}.jpg")
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(lines))
    return count


def measure(source: str, out: str) -> dict[str, Any]:
    """Seconds of the listing, and of the whole command."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    listing = list_source(IngestConfig(format="celebamask_hq", source=(source,), out=out), f"{out}-listing")
    listed = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    num_samples = sum(listing.samples.num_rows().values())
    begin = time.perf_counter()
    command = [sys.executable, str(ROOT / "ray_job.py"), "ingest", "--format", "celebamask_hq", "--json"]
    done = subprocess.run([*command, "--source", source, "--out", out], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    return {
        "listing_s": round(listed, 1),
        "listing_peak_mb": (peak - before) // 1024,
        "command_s": round(seconds, 1),
        "samples_per_s": round(num_samples / seconds, 1),
        "result": json.loads(done.stdout.splitlines()[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=30_000)
    parser.add_argument("--s3", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_files = write_tree(folder / "raw", arguments.samples)
        result: dict[str, Any] = {"samples": arguments.samples, "files": num_files}
        result["disk"] = measure(str(folder / "raw"), str(folder / "data"))
        print(json.dumps(result, indent=2), flush=True)
        if arguments.s3:
            with object_store(folder / "objects") as store:
                os.environ.update(store.environment)
                fs = client(store.environment)
                fs.mkdir("bucket")
                begin = time.perf_counter()
                fs.put(str(folder / "raw"), "bucket/raw", recursive=True)
                result["upload_s"] = round(time.perf_counter() - begin, 1)
                result["s3"] = measure("s3://bucket/raw", "s3://bucket/data")
            print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
