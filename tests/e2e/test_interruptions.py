"""What happens to commands whose driver, or whose object store, is killed with -9 in the middle."""

import pytest

from cluster.object_store import client, object_store
from pipelines.data import dataset
from tests.support.commands import outlasts, run_command, started, variables, wait_for

PAIRS = ("ingest", "--format", "pairs", "--taxonomy", "celebamask_hq", "--json")


@pytest.fixture(scope="module")
def raw(run_on_head, tmp_path_factory):
    """Paired folders of 600 faces: 38 files of a data set."""
    out = tmp_path_factory.mktemp("raw") / "pairs"
    done = run_on_head("synth", "--out", out, "--num-images", 600, "--image-size", 32, "--layout", "pairs")
    assert done.code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def undisturbed(raw, run_on_head, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "data"
    done = run_on_head(*PAIRS, "--source", raw, "--out", out)
    assert done.code == 0, done.stderr
    return dataset.read_manifest(str(out))


def test_an_ingest_killed_with_9_continues_without_doing_finished_files_again(
    raw, undisturbed, head, run_on_head, tmp_path
):
    out, log = tmp_path / "data", tmp_path / "log"
    process = started(log, *PAIRS, "--source", raw, "--out", out, **head.driver_environment)
    wait_for(lambda: list(out.glob("receipts/*/*.json")), process, log)
    process.kill()
    process.wait()
    assert not (out / dataset.MANIFEST).exists()
    receipts = {path.relative_to(out / "receipts").with_suffix("") for path in out.glob("receipts/*/*.json")}
    times = {path: path.stat().st_mtime_ns for name in receipts for path in out.glob(f"{name}-*.parquet")}
    assert len(times) == len(receipts)
    done = run_on_head(*PAIRS, "--source", raw, "--out", out)
    assert done.code == 0, done.stderr
    assert f"{len(receipts)} of them by an earlier attempt" in done.stderr or len(receipts) == num_files(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert dataset.read_manifest(str(out)).digest == undisturbed.digest


@pytest.mark.faults
def test_an_ingest_killed_with_9_after_listing_leaves_a_hidden_folder_and_continues(
    raw, undisturbed, head, run_on_head, tmp_path
):
    out, log = tmp_path / "data", tmp_path / "log"
    process = started(log, *PAIRS, "--source", raw, "--out", out, **head.driver_environment)
    wait_for(lambda: list(out.glob(".listing/*/names-*.parquet")), process, log)
    process.kill()
    process.wait()
    assert list(out.glob(".listing/*/names-*.parquet"))
    done = run_on_head(*PAIRS, "--source", raw, "--out", out)
    assert done.code == 0, done.stderr
    assert dataset.read_manifest(str(out)).digest == undisturbed.digest
    assert not (out / ".listing").exists()


def num_files(manifest):
    return sum(len(files) for files in manifest.splits.values())


@pytest.fixture(scope="module")
def store(raw, tmp_path_factory):
    """An S3 server of its own, which is killed; it holds the raw faces."""
    with object_store(tmp_path_factory.mktemp("mortal") / "objects") as store:
        fs = client(store.environment)
        fs.mkdir("mortal")
        fs.put(str(raw), "mortal/raw", recursive=True)
        yield store


@pytest.mark.faults
def test_an_ingest_outlasts_a_store_that_is_killed_and_comes_back(store, undisturbed, tmp_path):
    out = "s3://mortal/data"
    arguments = (*PAIRS, "--source", "s3://mortal/raw", "--out", out)
    outlasts(store, 3, "mortal/data/receipts", tmp_path / "log", *arguments)
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
