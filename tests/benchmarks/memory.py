"""Peak memory of training on s3:// with few rows and with ten times as many: streaming means that they are equal.

python -m tests.benchmarks.memory     about five minutes on 2 cores

Both trainings are the real command line, in turn, on a local S3 server. Anonymous memory is of each role's largest
process (pages that nobody shares, so that nothing is counted twice); the object store is shared memory. Both sizes
train for two epochs and score their validation rows after each, so the large one also takes ten times as many steps:
what leaks by the step or the row shows. Samples are frequent, since scoring peaks for moments only and the small run
has fewer of them.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.object_store import client, object_store
from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.config.base import Split
from pipelines.config.commands import SynthConfig
from pipelines.data import dataset
from pipelines.data.dataset import Manifest, Row
from pipelines.ingest import synth

NUM_IMAGES, FACTOR, IMAGE_SIZE = 600, 10, 128
"""Of every ten images eight are for training and one for validation."""
SAMPLE_SECONDS, SAMPLES_PER_LOOK = 0.04, 12
"""Which processes there are is looked up less often than their memory."""
ROOT = Path(__file__).parents[2]
ACTORS = ("TrainController", "Coordinator", "Actor", "Manager", "Watcher", "Cleaner", "Agent")
"""Parts of the names of Ray's own helpers."""


def write_data(uri: str, rows: Mapping[Split, list[Row]], copies: int) -> None:
    """A data set of one file per split and copy, each with ids of its own."""

    def files(split: Split) -> Iterator[dataset.DataFile]:
        for copy in range(copies):
            renamed = [Row(**{**row, "id": f"{row['id']}-{copy}"}) for row in rows[split]]
            file = dataset.write_file(uri, f"{split}/part-{copy:05d}", renamed)
            assert file is not None
            yield file

    splits = {split: tuple(files(split)) for split in rows}
    manifest = Manifest(label_taxonomy=CELEBAMASK_HQ, splits=splits, digest=dataset.digest_of(splits))
    dataset.finish_build(uri, manifest.model_dump(mode="json"))


def make_rows(num_images: int) -> dict[Split, list[Row]]:
    config = SynthConfig(out="/unused", image_size=IMAGE_SIZE)
    rows: dict[Split, list[Row]] = defaultdict(list)
    faces = synth.Faces(num_images)
    for split, count in faces.num_rows().items():
        rows[split] = [synth.make_row(config, *item) for item in faces.read(split, 0, count)]
    return rows


def descendants(root: int) -> Iterator[int]:
    """The process ids of `root` and all that it started, directly or not."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            children[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        yield pid
        waiting += children[pid]


def role_of(title: str) -> str | None:
    """What a process does, by the title that Ray gives it; None where its worker waits for work."""
    if "/raylet/raylet " in title:
        return "raylet"
    if title.startswith("ray::IDLE") or "default_worker.py" in title:
        return None
    if title.startswith("ray::RayTrainWorker"):
        return "train worker"
    is_task = title.startswith("ray::") and not any(name in title for name in ACTORS)
    return "decoding" if is_task else "ray daemons"


def anonymous_bytes(pid: int) -> int:
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0  # it has ended and waits for its parent


def object_store_bytes(raylet: int) -> int:
    """Shared memory that objects were ever written to: Ray keeps it in deleted files, and gives no page back."""
    total = 0
    for fd in Path(f"/proc/{raylet}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            if str(fd.readlink()).startswith("/dev/shm/"):
                total += fd.stat().st_blocks * 512
    return total


class Peaks:
    """The largest memory in bytes of each process of a command, sample by sample, and the role of each."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.roles: dict[int, str | None] = {}
        self.largest: dict[int, int] = defaultdict(int)
        self.object_store = 0

    def look_around(self) -> None:
        """Finds the processes and what each does now; a worker that waits keeps the role that it had."""
        for pid in descendants(self.root):
            with suppress(OSError):  # it has just ended
                role = role_of(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " "))
                self.roles[pid] = "driver" if pid == self.root else role or self.roles.get(pid)
                if role == "raylet":
                    self.object_store = max(self.object_store, object_store_bytes(pid))

    def sample(self) -> None:
        for pid in self.roles:
            with suppress(OSError):
                self.largest[pid] = max(self.largest[pid], anonymous_bytes(pid))

    def by_role(self) -> dict[str, float]:
        """MB of the largest process of each role, and of the object store."""
        largest = {"object store": self.object_store / 1e6}
        for pid, value in self.largest.items():
            role = self.roles[pid] or "idle worker"
            largest[role] = max(largest.get(role, 0), value / 1e6)
        return largest


def train(data: str, out: str) -> dict[str, float]:
    """Peaks of one training. Raises RuntimeError where it fails."""
    options = ["--preset", "cpu-smoke", "--data", data, "--out", out, "--optimizer.batch-size", "16"]
    command = [sys.executable, "ray_job.py", "train", *options]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        peaks, begin = Peaks(process.pid), time.monotonic()
        while process.poll() is None:
            peaks.look_around()
            for _ in range(SAMPLES_PER_LOOK):
                peaks.sample()
                time.sleep(SAMPLE_SECONDS)
        log.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"training on {data} failed:\n{log.read()}")
    return peaks.by_role() | {"seconds": time.monotonic() - begin}


def compare(bucket: str) -> dict[str, Any]:
    """Trains on both data sets below `bucket`; the peaks of both, and large / small of each role."""
    rows = make_rows(NUM_IMAGES)
    peaks = {}
    for name, copies in (("small", 1), ("large", FACTOR)):
        write_data(f"{bucket}/memory-{name}", rows, copies)
        peaks[name] = train(f"{bucket}/memory-{name}", f"{bucket}/memory-{name}-run")
    small, large = peaks.values()
    ratio = {role: large[role] / small[role] for role in small if small[role] and role in large}
    return {"rows": {split: len(values) for split, values in rows.items()}, **peaks, "ratio": ratio}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, object_store(Path(folder) / "objects") as store:
        os.environ.update(store.environment)
        client(store.environment).mkdir("faces")
        print(json.dumps(compare("s3://faces"), indent=2))


if __name__ == "__main__":
    main()
