"""The real command line, each command in a process of its own, except for wrong usage."""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import ray_job
from pipelines.data import dataset
from pipelines.models import model_directory
from tests.support.commands import ROOT, command_line, run_command


def test_help_lists_every_command_and_each_has_its_own():
    overview = run_command("--help")
    assert overview.code == 0
    for name in (*ray_job.COMMANDS, ray_job.PLAN):
        assert f"  {name} " in overview.stdout
    one = run_command("train", "--help")
    assert one.code == 0 and "--optimizer.lr" in one.stdout and "cpu-small" in one.stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "unknown command 'trian'"),
        ([ "train", "--data", "/nowhere"], "--out is required"),
        (["train", "--data", "/nowhere", "--out", "/tmp/none"], "is not a data set"),
        (["train", "--datta", "x"], "did you mean '--data'"),
        (["evaluate", "--model", "/nowhere", "--data", "/nowhere"], "is not a data set"),
        (["predict", "--model", "/nowhere", "--images", "/nowhere", "--out", "/tmp/none"], "holds no model"),
        (["ingest", "--format", "face_synthetics", "--source", "/nowhere", "--out", "/tmp/none"], "does not exist"),
        (["ingest", "--format", "pairs", "--source", "/tmp", "--out", "/tmp/none"], "--taxonomy is required"),
        (["synth", "--out", "/proc/none"], "/proc/none"),
        (["import-weights", "--checkpoint", "/nowhere", "--taxonomy", "lapa", "--out", "/tmp/none"], "does not exist"),
        (["synth", "--out", "ftp://host/data"], "s3://bucket/key"),
    ],
)  # fmt: skip
def test_wrong_usage_is_one_sentence_and_exit_code_2(argv, message, run_here):
    one_sentence(run_here(*argv), message)


def test_a_process_exits_with_that_code_and_prints_nothing_else():
    one_sentence(run_command("synth", "--out", "/proc/none"), "/proc/none")


def one_sentence(done, message):
    assert done.code == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not Path("/tmp/none").exists()


def test_print_config_prints_yaml_and_does_nothing():
    done = run_command("train", "--preset", "helen", "--print-config")
    assert done.code == 0 and "depth: 101" in done.stdout and done.stderr == ""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """48 / 6 / 6 faces of 64 pixels, made by the command itself."""
    out = tmp_path_factory.mktemp("e2e") / "data"
    done = run_command("synth", "--out", out, "--num-images", 60, "--image-size", 64, "--json")
    assert done.code == 0, done.stderr
    assert done.result == {"out": str(out), "num_rows": {"train": 48, "val": 6, "test": 6}}
    return out


DIVERGED = r"failed: the loss or its gradient is not finite in epoch 1, step \d+"
SMOKE = ("--preset", "cpu-smoke", "--schedule.epochs", 3)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """A run that nothing happened to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    done = run_command("train", "--data", data, "--out", out, *SMOKE, "--json")
    assert done.code == 0, done.stderr
    return out, done


def digest(run: Path) -> str:
    """Of the exported weights; shorter than they are where a comparison fails."""
    return hashlib.sha256((run / "model" / model_directory.WEIGHTS).read_bytes()).hexdigest()


def test_the_last_line_of_train_is_its_result_and_it_is_committed(undisturbed):
    out, done = undisturbed
    assert set(done.result) == {"run", "model", "val_mean_f1", "num_epochs", "num_cycles", "resumed"}
    committed = json.loads((out / "result.json").read_text())
    assert committed["exit_code"] == 0 and committed["result"] == done.result


def test_progress_goes_to_standard_error_without_rays_chatter(undisturbed):
    out, done = undisturbed
    (log,) = (out / "logs").glob("driver-*.log")
    assert "epoch 3/3 done" in done.stderr and "epoch 3/3 done" in log.read_text()
    assert "waiting for the resources of a worker" in done.stderr and "still waiting" not in done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "Execution plan" not in done.stderr and "Reporting training result" not in done.stderr


def test_a_driver_killed_with_9_continues_to_the_weights_of_an_undisturbed_run(data, undisturbed, tmp_path):
    out = tmp_path / "run"
    argv = command_line("train", "--data", data, "--out", out, *SMOKE, "--json")
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=ROOT, env=env)
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert json.loads((out / "result.json").read_text())["exit_code"] is None
    done = run_command("train", "--data", data, "--out", out, *SMOKE, "--json")
    assert done.code == 0, done.stderr
    assert done.result["resumed"]
    assert "epoch 1/3" not in done.stderr
    assert digest(out) == digest(undisturbed[0])
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]


def test_a_finished_run_answers_without_starting_ray(data, undisturbed):
    out, first = undisturbed
    again = run_command("train", "--data", data, "--out", out, *SMOKE, "--json", RAY_ADDRESS="127.0.0.1:1")
    assert again.code == 0 and again.result == first.result


def test_scores_and_predictions_come_out_of_the_trained_model(data, undisturbed, run_on_head, tmp_path):
    out, _ = undisturbed
    scored = run_on_head("evaluate", "--model", out, "--data", data, "--json")
    assert scored.code == 0, scored.stderr
    assert set(scored.result) >= {"mean_f1", "f1", "mean_iou", "boundary_iou", "pixel_accuracy", "num_images"}
    assert scored.result["num_images"] == 6
    overlays = Path(scored.result["out"]) / "overlays"
    assert overlays.parents[1] == out / "evaluation" and (overlays / "best-01.png").exists()
    done = run_on_head("predict", "--model", out, "--images", overlays, "--out", tmp_path / "p", "--json")
    assert done.code == 0, done.stderr
    assert done.result["num_images"] == len(list((tmp_path / "p" / "labels").iterdir())) > 0


def test_bad_input_leaves_the_output_free_for_the_corrected_command(data, tmp_path):
    out = tmp_path / "run"
    done = run_command("train", "--data", data, "--out", out, *SMOKE, "--optimizer.batch-size", 500, "--json")
    assert done.code == 2 and "too few for one step" in done.stderr
    assert not out.exists()


def test_a_failed_command_says_so_in_its_output_but_never_over_a_success(data, undisturbed, run_on_head, tmp_path):
    out = tmp_path / "run"
    diverging = ("--optimizer.lr", 1e30, "--optimizer.clip-norm", "null")
    done = run_on_head("train", "--data", data, "--out", out, *SMOKE, *diverging, "--json")
    lines = done.stderr.strip().splitlines()
    assert done.code == 1 and re.match(DIVERGED, lines[-1])
    assert not any(line.startswith("Traceback") for line in lines)  # Ray's actors may tell theirs, with a prefix
    assert json.loads((out / "result.json").read_text())["exit_code"] == 1
    finished, first = undisturbed
    refused = run_command("train", "--data", data, "--out", finished, *SMOKE, "--seed", 7)
    assert refused.code == 2 and "seed = 0, not 7" in refused.stderr
    assert json.loads((finished / "result.json").read_text())["result"] == first.result


def test_the_data_set_was_left_as_it_was(data, undisturbed):
    assert dataset.read_manifest(str(data)).num_rows() == {"train": 48, "val": 6, "test": 6}
    assert sorted(path.name for path in data.iterdir()) == [
        "claim.json",
        "dataset.json",
        "result.json",
        "test",
        "train",
        "val",
    ]


@pytest.mark.faults
def test_a_driver_killed_again_and_again_ends_with_the_weights_of_an_undisturbed_run(data, undisturbed, tmp_path):
    """Kills at growing delays: during start-up, before the first checkpoint, between and while committing."""
    out = tmp_path / "run"
    argv = command_line("train", "--data", data, "--out", out, *SMOKE, "--json")
    env = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    for delay in (2, 12, 20, 24, 25, 26, 27, 28):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=env)
        try:
            process.wait(delay)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    done = run_command("train", "--data", data, "--out", out, *SMOKE, "--json")
    assert done.code == 0, done.stderr
    assert digest(out) == digest(undisturbed[0])
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [1, 2, 3]
