"""How each way of reaching object storage survives a server that is killed with -9 and comes back later.

python -m tests.benchmarks.outage --seconds 30         about one minute; prints seconds from the kill to each answer
python -m tests.benchmarks.outage --never-back         about two minutes; when and how each one gives up
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from cluster.object_store import client, object_store
from pipelines import storage
from pipelines.errors import UserError

BUCKET = "s3://bucket"


def read_row_group() -> None:
    with storage.user_errors("read", BUCKET):
        pq.ParquetFile(storage.open_input(f"{BUCKET}/rows.parquet")).read_row_group(1)


def upload(folder: Path) -> None:
    """As Ray Train uploads a checkpoint."""
    fs, path = storage.arrow_filesystem(f"{BUCKET}/checkpoint")
    with storage.user_errors("upload", BUCKET):
        pyarrow.fs.copy_files(str(folder), path, pyarrow.fs.LocalFileSystem(), fs)


def read_many() -> None:
    assert all(isinstance(data, bytes) for data in storage.read_many([f"{BUCKET}/many/{n}" for n in range(300)]))


def timed(operation: Callable[[], object], began: float) -> str:
    try:
        operation()
    except UserError as error:
        return f"gave up after {time.monotonic() - began:.1f} s: {str(error)[:120]}"
    return f"{time.monotonic() - began:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of the outage")
    parser.add_argument("--never-back", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, object_store(Path(name) / "objects") as store:
        folder = Path(name) / "checkpoint"
        folder.mkdir()
        for size in (1, 60):
            (folder / f"{size}.bin").write_bytes(os.urandom(size << 20))
        os.environ.update(store.environment)
        client(store.environment).mkdir("bucket")
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": [os.urandom(1 << 20) for _ in range(4)]}), buffer, row_group_size=1)
        storage.write_bytes(f"{BUCKET}/rows.parquet", buffer.getvalue().to_pybytes())
        for number in range(300):
            storage.write_bytes(f"{BUCKET}/many/{number}", b"x" * 1000)
        operations: dict[str, Callable[[], object]] = {
            "read an object": lambda: storage.read_bytes(f"{BUCKET}/many/0"),
            "read 300 objects at once": read_many,
            "write an object": lambda: storage.write_bytes(f"{BUCKET}/written", b"x" * 1000),
            "list": lambda: storage.list_files(f"{BUCKET}/many"),
            "read a row group with pyarrow": read_row_group,
            "upload a checkpoint of 61 MB with pyarrow": lambda: upload(folder),
        }
        with ThreadPoolExecutor(len(operations)) as pool:
            store.kill()
            began = time.monotonic()
            answers = {name: pool.submit(timed, operation, began) for name, operation in operations.items()}
            if not arguments.never_back:
                time.sleep(arguments.seconds)
                store.start()
            outage = None if arguments.never_back else round(time.monotonic() - began, 1)
            result = {name: answer.result() for name, answer in answers.items()}
        print(json.dumps({"outage_s": outage, "answered_after": result}, indent=2))


if __name__ == "__main__":
    main()
