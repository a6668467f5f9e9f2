"""Bytes that `relabel` writes, and its time, on disk and on a local S3 server behind a limited line.

python -m tests.benchmarks.relabel_bytes                 600 rows on disk: 1024-pixel JPEGs, 512-pixel labels
python -m tests.benchmarks.relabel_bytes --rate 20       the same on the S3 server, 20 MB/s for both directions together

The model is tiny and untrained. `replace` gives every pixel its class, so each label is encoded anew. Times are those
of `relabel` on a running cluster, with the start of its actors.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from cluster.object_store import client, object_store
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines import storage
from pipelines.bench.relabel import write_model
from pipelines.bench.stream import SIDE, make_pair
from pipelines.config.commands import RelabelConfig
from pipelines.data import dataset, packing
from pipelines.data.dataset import Row
from pipelines.data.images import decode_label, encode_png
from pipelines.relabeling import relabel
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session
from tests.support.commands import variables
from tests.support.proxy import proxy

KNOWN, ROWS_PER_FILE = 24, 48


def write_data(out: str, num_rows: int, label_size: int) -> int:
    """Writes a data set of training rows. Returns the bytes of its images."""
    pairs = [(image, shrunk(label, label_size)) for image, label in map(make_pair, range(KNOWN))]
    rows = [
        Row(id=f"{n}", image=pairs[n % KNOWN][0], label=pairs[n % KNOWN][1], height=SIDE, width=SIDE, meta="{}")
        for n in range(num_rows)
    ]
    parts = [rows[start : start + ROWS_PER_FILE] for start in range(0, num_rows, ROWS_PER_FILE)]
    files = [dataset.write_file(out, f"train/part-{number:05d}", part) for number, part in enumerate(parts)]
    packing.write_manifest(out, CELEBAMASK_HQ, {"train": [file for file in files if file]}, [], {"command": "test"})
    return sum(len(row["image"]) for row in rows)


def shrunk(label: bytes, size: int) -> bytes:
    ids = decode_label(label)
    return encode_png(np.ascontiguousarray(ids[:: len(ids) // size, :: len(ids) // size]))


def measure(folder: str, num_rows: int, label_size: int, policies: list[str]) -> None:
    image_bytes = write_data(f"{folder}/data", num_rows, label_size)
    write_model(f"{folder}/model", width=0.125, size=64)
    with ray_session(Needs(cpus=3)):
        for policy in policies:
            out = f"{folder}/{policy}"
            values = {"model": f"{folder}/model", "data": f"{folder}/data", "out": out, "policy": policy}
            config = RelabelConfig.model_validate({**values, "actors": {"min_actors": 2, "max_actors": 2}})
            begin = time.monotonic()
            relabel.run(config)
            seconds = time.monotonic() - begin
            written = sum(len(storage.read_bytes(uri)) for uri in storage.list_files(out))
            found = {"image_bytes": image_bytes, "written_bytes": written, "fraction": written / image_bytes}
            print(json.dumps({"policy": policy, "seconds": round(seconds, 1), **found}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--rate", type=float, help="MB/s of the line to the S3 server")
    parser.add_argument("--label-size", type=int, default=512, help="less work beside reading and writing")
    parser.add_argument("--policies", default="replace,blend")
    arguments = parser.parse_args()
    policies = arguments.policies.split(",")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.rate is None:
            measure(folder, arguments.rows, arguments.label_size, policies)
            return
        with object_store(Path(folder) / "objects") as store, proxy(store.environment["AWS_ENDPOINT_URL"]) as line:
            client(store.environment).mkdir("bucket")
            line.bytes_per_second = 1e6 * arguments.rate
            with variables({**store.environment, "AWS_ENDPOINT_URL": line.endpoint}):
                measure("s3://bucket", arguments.rows, arguments.label_size, policies)


if __name__ == "__main__":
    main()
