"""The whole circle on five hosts with addresses of their own, undisturbed and disturbed: kept script, needs root.

python -m tests.e2e.hosts [--folder FOLDER] [--down-seconds 100]     about eight minutes

The hosts are network namespaces of this machine: a laptop, a Ray head without CPUs, two workers, and an S3 server. Raw
faces -> ingest -> train (two workers, one a host) -> relabel, each by `ray job submit` from the laptop. Then again with
the store's link slowed during ingest, a worker's link down (until its node is given up) and the driver killed with -9
during the training, and the driver killed and a link down for a while during relabelling. Asserts that it finishes,
that no row is lost or there twice, and that data, scores and labels are those of the undisturbed circle; prints what it
measured as JSON.
"""

import argparse
import hashlib
import io
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import s3fs

from cluster.head import Head, alive_nodes
from cluster.object_store import client
from tests.support.commands import ROOT
from tests.support.namespaces import Host, network

BIN = Path(sys.executable).parent
NUM_IMAGES = 240
WORKERS = ("worker1", "worker2")
# Two CPUs of a host's three for a training worker: the other worker fits only on the other host.
CPUS_PER_HOST = 3
TRAIN = (
    "train", "--preset", "cpu-smoke", "--schedule.epochs", "6", "--csr.num-cycles", "1", "--csr.cycle-epochs", "2",
    "--workers.num-workers", "2", "--workers.cpus-per-worker", "2",
)  # fmt: skip
DEADLINE_SECONDS = 600.0
SHORT_CUT_SECONDS = 15.0
"""Of a link: shorter than the cluster's patience with a node."""


class Cloud:
    """The hosts, and what runs on them."""

    def __init__(self, hosts: Mapping[str, Host], folder: Path) -> None:
        self.hosts = hosts
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        head = hosts["head"].address
        self.base = {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "AWS_ACCESS_KEY_ID": f"key{secrets.token_hex(8)}",
            "AWS_SECRET_ACCESS_KEY": secrets.token_hex(20),
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{hosts['store'].address}:8333",
            "OMP_WAIT_POLICY": "PASSIVE",  # all hosts share the cores: threads that spin take them from others
        }
        self.head = Head(f"http://{head}:8265", self.base, f"{head}:6379")
        self.folder = folder

    @property
    def store(self) -> s3fs.S3FileSystem:
        return client(self.base)

    def start(self) -> None:
        """The store on its host, the head on its own, and a node of Ray on each worker."""
        address = self.hosts["store"].address
        objects = f"-dir={self.folder / 'objects'}"
        (self.folder / "objects").mkdir()
        options = ["mini", objects, f"-ip={address}", f"-ip.bind={address}", "-s3.port=8333", "-admin.ui=false"]
        self.hosts["store"].start([str(BIN / "weed"), *options, "-webdav=false"], self.base)
        wait_until(self._store_answers)
        self.store.mkdir("hosts")
        address = self.hosts["head"].address
        dashboard = ["--include-dashboard=true", f"--dashboard-host={address}", "--dashboard-port=8265"]
        self._start_ray("head", ["--head", "--port=6379", "--num-cpus=0", *dashboard])
        wait_until(lambda: self.alive() == {"head"})
        for name in WORKERS:
            self.start_worker(name)
        wait_until(lambda: self.alive() == {"head", *WORKERS})

    def start_worker(self, name: str) -> None:
        self._start_ray(name, [f"--address={self.head.address}", f"--num-cpus={CPUS_PER_HOST}"])

    def _start_ray(self, name: str, options: list[str]) -> None:
        host = self.hosts[name]
        common = ["--block", "--disable-usage-stats", f"--node-name={name}", f"--node-ip-address={host.address}"]
        common.append(f"--object-store-memory={256 << 20}")
        self.nodes[name] = host.start([str(BIN / "ray"), "start", *common, *options], self.base)

    def _store_answers(self) -> bool:
        try:
            return bool(self.store.ls("") is not None)
        except OSError:
            return False

    def alive(self) -> set[str]:
        try:
            return {node["node_name"] for node in alive_nodes(self.head)}
        except OSError:  # a starting head refuses connections
            return set()

    def submit(self, *command: str) -> "subprocess.Popen[bytes]":
        """A job, whose output goes to the laptop's log."""
        argv = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", "python", "ray_job.py", *command]
        env = self.base | {"RAY_ADDRESS": self.head.dashboard}
        with (self.hosts["laptop"].folder / "log").open("a") as log:
            return subprocess.Popen(argv, cwd=ROOT, env=env, stdout=log, stderr=log)

    def done(self, *command: str) -> float:
        """Seconds that a job took to its good end."""
        began = time.monotonic()
        assert self.submit(*command).wait(DEADLINE_SECONDS) == 0, f"{command[0]} failed: {self.folder}/laptop/log"
        return time.monotonic() - began

    def kill_driver(self) -> None:
        """kill -9 of the only running `ray_job.py` of the head."""
        drivers = [process for process in self.hosts["head"].processes() if "ray_job.py" in process.cmdline()[1:2]]
        (driver,) = drivers
        driver.kill()

    def cut(self, name: str, seconds: float) -> dict[str, Any]:
        """A worker's link down and up; a node that the cluster has given up meanwhile ends, and is started again."""
        self.hosts[name].set_link(is_up=False)
        began = time.monotonic()
        while time.monotonic() - began < seconds and name in self.alive():
            time.sleep(0.5)
        lost = None if name in self.alive() else round(time.monotonic() - began, 1)
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))  # the cut itself
        self.hosts[name].set_link(is_up=True)
        if lost is not None:
            self.nodes[name].wait(DEADLINE_SECONDS)  # Ray ends a node that finds itself given up
            self.start_worker(name)
        wait_until(lambda: name in self.alive())
        return {"down_s": seconds, "given_up_after_s": lost, "back_after_s": round(time.monotonic() - began, 1)}


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def commands(name: str, model: str | None = None) -> dict[str, tuple[str, ...]]:
    """The circle's, with its outputs below s3://hosts/<name>."""
    data, run, better = (f"s3://hosts/{name}/{part}" for part in ("data", "run", "better"))
    ingest = ("ingest", "--format", "pairs", "--taxonomy", "celebamask_hq", "--source", "s3://hosts/raw", "--out", data)
    train = (*TRAIN, "--data", data, "--out", run)
    relabel = ("relabel", "--model", model or run, "--data", data, "--out", better, "--actors.max-actors", "4")
    return {"ingest": ingest, "train": train, "relabel": relabel}


def disturbed(cloud: Cloud, down_seconds: float) -> dict[str, Any]:
    """The circle with its faults; what was measured of them."""
    steps, told = commands("disturbed"), dict[str, Any]()
    there = cloud.store.exists

    cloud.hosts["store"].slow_down("1mbit")
    told["ingest_slow_store_s"] = cloud.done(*steps["ingest"])
    cloud.hosts["store"].speed_up()

    began = time.monotonic()
    job = cloud.submit(*steps["train"])
    wait_until(lambda: there("hosts/disturbed/run/metrics.jsonl"))
    for name in WORKERS:
        assert sum("RayTrainWorker" in "".join(process.cmdline()) for process in cloud.hosts[name].processes()) == 1
    told["train_link"] = cloud.cut("worker2", down_seconds)
    wait_until(lambda: there("hosts/disturbed/run/ledger/train/student-000.json"))
    cloud.kill_driver()
    assert job.wait(DEADLINE_SECONDS) != 0, "a killed driver's job fails"
    assert not there("hosts/disturbed/run/model/model.json")
    told["train_resumed_s"] = cloud.done(*steps["train"])
    told["train_s"] = time.monotonic() - began

    began = time.monotonic()
    job = cloud.submit(*steps["relabel"])
    wait_until(lambda: len(cloud.store.glob("hosts/disturbed/better/receipts/train/*.json")) >= 2)
    cloud.kill_driver()
    assert job.wait(DEADLINE_SECONDS) != 0
    job = cloud.submit(*steps["relabel"])
    wait_until(lambda: len(cloud.store.glob("hosts/disturbed/better/receipts/train/*.json")) >= 4)
    told["relabel_link"] = cloud.cut("worker1", SHORT_CUT_SECONDS)
    assert job.wait(DEADLINE_SECONDS) == 0
    told["relabel_s"] = time.monotonic() - began
    return told


def row_ids(fs: s3fs.S3FileSystem, data: str) -> list[str]:
    paths = sorted(fs.glob(f"hosts/{data}/train/*.parquet"))
    return [row for path in paths for row in pq.read_table(io.BytesIO(fs.cat_file(path)))["id"].to_pylist()]


def outcome(fs: s3fs.S3FileSystem, name: str) -> dict[str, Any]:
    """What the circle of that name has made."""
    metrics = [json.loads(line) for line in fs.cat_file(f"hosts/{name}/run/metrics.jsonl").splitlines()]
    result = json.loads(fs.cat_file(f"hosts/{name}/run/result.json"))["result"]
    ids = row_ids(fs, f"{name}/better")
    assert ids == row_ids(fs, f"{name}/data") and len(set(ids)) == len(ids), "rows lost or there twice"
    return {
        "data": json.loads(fs.cat_file(f"hosts/{name}/data/dataset.json"))["digest"],
        "val_mean_f1": [row["val_mean_f1"] for row in metrics],
        "epochs": [row["epoch"] for row in metrics],
        "best": result["val_mean_f1"],
        "weights": hashlib.sha256(fs.cat_file(f"hosts/{name}/run/model/model.safetensors")).hexdigest(),
        "labels": [fs.cat_file(path) for path in sorted(fs.glob(f"hosts/{name}/better/train/*.parquet"))],
        "num_rows": len(ids),
    }


@contextmanager
def cloud(folder: Path) -> Iterator[Cloud]:
    with network(folder, ("laptop", "head", "store", *WORKERS)) as hosts:
        running = Cloud(hosts, folder)
        running.start()
        yield running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for logs and objects, which stay; default: a temporary one")
    parser.add_argument("--down-seconds", type=float, default=100.0, help="of the link in training")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as temporary, cloud((arguments.folder or Path(temporary)).absolute()) as running:
        told: dict[str, Any] = {}
        raw = ("synth", "--layout", "pairs", "--image-size", "64", "--num-images", str(NUM_IMAGES))
        running.done(*raw, "--out", "s3://hosts/raw")
        for name, command in commands("calm").items():
            told[f"undisturbed_{name}_s"] = running.done(*command)
        told |= disturbed(running, arguments.down_seconds)
        calm, stormy = (outcome(running.store, name) for name in ("calm", "disturbed"))
        told["same"] = {name: calm[name] == stormy[name] for name in calm}
        told["best"] = calm["best"], stormy["best"]
        told["num_rows"] = calm["num_rows"]
    print(json.dumps(told, indent=2))
    assert all(told["same"].values()), "the disturbed circle ended otherwise"


if __name__ == "__main__":
    main()
