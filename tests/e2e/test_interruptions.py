"""What happens to commands whose driver, or whose object store, is killed with -9 in the middle."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.object_store import ObjectStore, client, object_store
from pipelines import dataset
from tests.conftest import ROOT, command_line, run_command, variables

PAIRS = ("ingest", "--format", "pairs", "--taxonomy", "celebamask_hq", "--json")


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Paired folders of 900 faces: six files of a data set."""
    out = tmp_path_factory.mktemp("raw") / "pairs"
    done = run_command("synth", "--out", out, "--num-images", 900, "--image-size", 32, "--layout", "pairs")
    assert done.code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def undisturbed(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    done = run_command(*PAIRS, "--source", raw, "--out", out)
    assert done.code == 0, done.stderr
    return dataset.read_manifest(str(out))


def started(log: Path, *arguments: object, **environment: str) -> "subprocess.Popen[bytes]":
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | environment
    with log.open("w") as file:
        return subprocess.Popen(command_line(*arguments), stdout=file, stderr=file, cwd=ROOT, env=env)


def wait_for(
    condition: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path, seconds: float = 200
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def test_an_ingest_killed_with_9_continues_without_doing_finished_files_again(raw, undisturbed, tmp_path):
    out, log = tmp_path / "data", tmp_path / "log"
    process = started(log, *PAIRS, "--source", raw, "--out", out)
    wait_for(lambda: list(out.glob("unfinished/*/*.json")), process, log)
    process.kill()
    process.wait()
    assert not (out / dataset.MANIFEST).exists()
    receipts = {
        path.relative_to(out / "unfinished").with_suffix(".parquet") for path in out.glob("unfinished/*/*.json")
    }
    times = {path: (out / path).stat().st_mtime_ns for path in receipts}
    done = run_command(*PAIRS, "--source", raw, "--out", out)
    assert done.code == 0, done.stderr
    assert f"{len(receipts)} of them by an earlier attempt" in done.stderr or len(receipts) == 6
    assert {path: (out / path).stat().st_mtime_ns for path in receipts} == times
    assert dataset.read_manifest(str(out)).digest == undisturbed.digest


@pytest.fixture(scope="module")
def store(raw, tmp_path_factory):
    """An S3 server of its own, which is killed; it holds the raw faces."""
    with object_store(tmp_path_factory.mktemp("mortal") / "objects") as store:
        fs = client(store.environment)
        fs.mkdir("mortal")
        fs.put(str(raw), "mortal/raw", recursive=True)
        yield store


def outlasts(store: ObjectStore, seconds: float, begun: str, log: Path, *arguments: object) -> None:
    """The command ends well though the store is killed once `begun` is there and comes back after `seconds`."""
    fs = client(store.environment)
    process = started(log, *arguments, **store.environment)
    wait_for(lambda: fs.exists(begun) and fs.find(begun), process, log)
    store.kill()
    time.sleep(seconds)  # the outage itself
    store.start()
    assert process.wait(300) == 0, log.read_text()
    assert "does not answer" in log.read_text()


def test_an_ingest_outlasts_a_store_that_is_killed_and_comes_back(store, undisturbed, tmp_path):
    out = "s3://mortal/data"
    arguments = (*PAIRS, "--source", "s3://mortal/raw", "--out", out)
    outlasts(store, 3, "mortal/data/unfinished", tmp_path / "log", *arguments)
    done = run_command(*arguments, **store.environment)
    assert done.code == 0 and done.result["num_rows"] == undisturbed.num_rows()
    with variables(store.environment):
        found = {split: [file.num_rows for file in files] for split, files in dataset.read_manifest(out).splits.items()}
    assert found == {split: [file.num_rows for file in files] for split, files in undisturbed.splits.items()}


@pytest.mark.faults
def test_a_training_outlasts_an_outage_of_30_seconds(store, tmp_path):
    data, run = "s3://mortal/faces", "s3://mortal/run"
    done = run_command("synth", "--out", data, "--num-images", 240, "--image-size", 64, **store.environment)
    assert done.code == 0, done.stderr
    arguments = ("train", "--preset", "cpu-smoke", "--schedule.epochs", 12, "--data", data, "--json", "--out")
    outlasts(store, 30, "mortal/run/metrics.jsonl", tmp_path / "log", *arguments, run)
    done = run_command(*arguments, "s3://mortal/calm", **store.environment)
    assert done.code == 0, done.stderr
    fs = client(store.environment)
    weights = [fs.cat_file(f"mortal/{name}/model/model.safetensors") for name in ("run", "calm")]
    assert weights[0] == weights[1]
