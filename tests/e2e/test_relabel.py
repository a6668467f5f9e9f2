"""`relabel` on the real command line, on S3, killed with -9: the driver, a whole node, the store."""

import json
import os
import signal

import pytest

from cluster.head import ray_head, ray_node
from cluster.object_store import client, object_store
from pipelines.bench.relabel import faces, write_data
from tests.support.commands import outlasts, started, wait_for
from tests.support.networks import untrained_model

NUM_FILES = 15  # of 16 training rows each


@pytest.fixture(scope="module")
def inputs(s3, tmp_path_factory):
    """Flags of `relabel` for a data set and an untrained model, both on S3."""
    data, model = f"{s3}/relabel/data", f"{s3}/relabel/model"
    folder = tmp_path_factory.mktemp("data")
    write_data(str(folder), faces(64), num_rows=16 * NUM_FILES, rows_per_file=16)
    # Not by `pipelines.storage`, which knows one server a process.
    for path in (path for path in folder.rglob("*") if path.is_file()):
        client(os.environ).pipe_file(f"{data.removeprefix('s3://')}/{path.relative_to(folder)}", path.read_bytes())
    for name, content in untrained_model(width=0.125, size=64).items():
        client(os.environ).pipe_file(f"{model.removeprefix('s3://')}/{name}", content)
    return "relabel", "--data", data, "--model", model, "--json"


@pytest.fixture(scope="module")
def undisturbed(inputs, s3, run_on_head):
    out = f"{s3}/relabel/undisturbed"
    done = run_on_head(*inputs, "--out", out)
    assert done.code == 0, done.stderr
    assert done.result["num_rows"]["train"] == 16 * NUM_FILES and not done.result["resumed"]
    return manifest(out)


def files(pattern):
    return client(os.environ).glob(pattern.removeprefix("s3://"))


def manifest(out):
    content = json.loads(client(os.environ).cat_file(f"{out.removeprefix('s3://')}/dataset.json"))
    assert len(content["splits"]["train"]) == NUM_FILES
    return content


def times(out):
    """When each training file was written."""
    fs = client(os.environ)
    return {path: fs.info(path)["LastModified"] for path in files(f"{out}/train/*.parquet")}


def test_a_driver_killed_with_9_continues_and_does_no_finished_file_again(
    inputs, undisturbed, s3, head, run_on_head, tmp_path
):
    out, log = f"{s3}/relabel/killed", tmp_path / "log"
    process = started(log, *inputs, "--out", out, **head.driver_environment)
    wait_for(lambda: len(files(f"{out}/receipts/train/*.json")) >= 3, process, log)
    process.kill()
    process.wait()
    assert not files(f"{out}/dataset.json")
    receipts = {path.rpartition("/")[2].split(".")[0] for path in files(f"{out}/receipts/train/*.json")}
    before = times(out)
    done = run_on_head(*inputs, "--out", out)
    assert done.code == 0, done.stderr
    assert done.result["resumed"] and "by an earlier attempt" in done.stderr
    after = times(out)
    again = {path.rpartition("/")[2].split(".")[0] for path in before if before[path] != after[path]}
    assert not again & receipts and len(again) <= 2  # at most the file of each actor
    assert manifest(out)["digest"] == undisturbed["digest"]


@pytest.mark.faults
def test_a_node_killed_with_9_changes_nothing_in_the_end(inputs, undisturbed, s3, tmp_path):
    out, log = f"{s3}/relabel/node", tmp_path / "log"
    with ray_head(tmp_path / "head", num_cpus=2) as head, ray_node(head, tmp_path / "node", num_cpus=2) as node:
        pool = ("--actors.min-actors", 3, "--actors.max-actors", 3)  # one at least is on the node
        process = started(log, *inputs, *pool, "--out", out, **head.driver_environment)
        wait_for(lambda: len(files(f"{out}/receipts/train/*.json")) >= 2, process, log)
        os.killpg(node.process.pid, signal.SIGKILL)
        assert process.wait(300) == 0, log.read_text()
    assert manifest(out)["digest"] == undisturbed["digest"]


@pytest.mark.faults
def test_an_outage_of_20_seconds_changes_nothing_in_the_end(inputs, undisturbed, tmp_path):
    with object_store(tmp_path / "objects") as store:
        fs = client(store.environment)
        fs.mkdir("mortal")
        for name in ("data", "model"):
            for path in client(os.environ).find(f"faces/relabel/{name}"):
                fs.pipe_file(f"mortal/{path.partition('/')[2]}", client(os.environ).cat_file(path))
        flags = [str(part).replace("s3://faces/", "s3://mortal/") for part in inputs]
        out = "s3://mortal/relabel/out"
        outlasts(store, 20, "mortal/relabel/out/receipts/train", tmp_path / "log", *flags, "--out", out)
        assert json.loads(fs.cat_file("mortal/relabel/out/dataset.json"))["digest"] == undisturbed["digest"]
