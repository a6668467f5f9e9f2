"""Self-regulation under the real command line, whose driver and whose object store are killed."""

import hashlib

import pytest

from cluster.object_store import client, object_store
from tests.support.commands import outlasts, run_command, started, wait_for

CSR = ("--preset", "cpu-smoke", "--schedule.epochs", 2, "--csr.num-cycles", 2, "--csr.cycle-epochs", 1, "--json")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("cycles") / "data"
    done = run_command("synth", "--out", out, "--num-images", 60, "--image-size", 64)
    assert done.code == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("calm") / "run"
    done = run_command("train", "--data", data, "--out", out, *CSR)
    assert done.code == 0, done.stderr
    return hashlib.sha256((out / "model/model.safetensors").read_bytes()).hexdigest()


@pytest.mark.faults
@pytest.mark.parametrize("record", ["student-000", "average-001", "ensemble-001", "student-002", "ensemble-002"])
def test_a_driver_killed_at_any_record_of_the_ledger_continues_to_the_same_weights(data, undisturbed, tmp_path, record):
    out, log = tmp_path / "run", tmp_path / "log"
    arguments = ("train", "--data", data, "--out", out, *CSR)
    process = started(log, *arguments)
    wait_for((out / f"ledger/train/{record}.json").exists, process, log)
    process.kill()
    process.wait()
    told = run_command("status", "--run", out, "--json")
    assert told.code == 0 and told.result["state"] == "interrupted"
    done = run_command(*arguments)
    assert done.code == 0, done.stderr
    assert hashlib.sha256((out / "model/model.safetensors").read_bytes()).hexdigest() == undisturbed
    names = sorted(path.name for path in (out / "ledger/train").iterdir())
    wanted = [f"{kind}-{n:03d}.json" for kind in ("average", "ensemble", "student") for n in range(3)]
    assert names == sorted(
        {*wanted, "teacher-002.json", "end.json", "records.json", "trial.json"} - {"average-000.json"}
    )


@pytest.mark.faults
def test_a_store_that_is_away_for_20_seconds_at_the_end_of_a_cycle_is_outlasted(data, undisturbed, tmp_path):
    with object_store(tmp_path / "objects") as store:
        fs = client(store.environment)
        fs.mkdir("mortal")
        fs.put(str(data), "mortal/data", recursive=True)
        run = "s3://mortal/run"
        arguments = ("train", "--data", "s3://mortal/data", "--out", run, *CSR)
        outlasts(store, 20, "mortal/run/ledger/train/student-001.json", tmp_path / "log", *arguments)
        weights = fs.cat_file("mortal/run/model/model.safetensors")
        assert hashlib.sha256(weights).hexdigest() == undisturbed
        told = run_command("status", "--run", run, "--json", **store.environment)
    assert told.result["state"] == "finished"
    assert sorted(map(int, told.result["trials"]["train"]["ensembles"])) == [0, 1, 2]


SWEEP = (
    "--preset", "cpu-smoke", "--schedule.epochs", 1, "--csr.num-cycles", 1, "--csr.cycle-epochs", 1,
    "--num-trials", 2, "--early-stopping", "false", "--json",
)  # fmt: skip


def killed_and_continued(data, out, log, record):
    """A sweep whose driver is killed as soon as a record is in its ledger, and continued; what it returned."""
    arguments = ("tune", "--data", data, "--out", out, *SWEEP)
    process = started(log, *arguments)
    wait_for((out / "ledger" / record).exists, process, log)
    process.kill()
    process.wait()
    done = run_command(*arguments)
    assert done.code == 0, done.stderr
    names = sorted(str(path.relative_to(out / "ledger")) for path in (out / "ledger").rglob("*.json"))
    kinds = ("average-001", "end", "ensemble-000", "ensemble-001", "records", "student-000", "student-001", "trial")
    assert names == [f"{trial}/{kind}.json" for trial in ("00000", "00001") for kind in kinds]
    return done.result


@pytest.mark.faults
def test_a_sweep_whose_driver_is_killed_continues_without_gaps(data, tmp_path):
    result = killed_and_continued(data, tmp_path / "run", tmp_path / "log", "00001/student-000.json")
    assert [(trial["state"], trial["epochs"]) for trial in result["trials"]] == [("finished", 2)] * 2
    told = run_command("status", "--run", tmp_path / "run", "--json").result
    assert told["state"] == "finished" and sorted(told["trials"]) == ["00000", "00001"]


@pytest.mark.faults
@pytest.mark.parametrize("record", ["00000/trial.json", "00000/average-001.json", "00001/ensemble-001.json"])
def test_the_scores_of_a_sweep_are_those_of_an_undisturbed_one(data, tmp_path_factory, tmp_path, record):
    calm = tmp_path_factory.getbasetemp() / "calm-sweep"
    undisturbed = run_command("tune", "--data", data, "--out", calm, *SWEEP)
    assert undisturbed.code == 0, undisturbed.stderr
    result = killed_and_continued(data, tmp_path / "run", tmp_path / "log", record)
    assert result["trials"] == undisturbed.result["trials"]


def test_status_of_what_is_no_run_is_one_sentence(tmp_path):
    done = run_command("status", "--run", tmp_path)
    assert done.code == 2 and "holds no run" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
