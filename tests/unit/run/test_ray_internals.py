"""What Ray does not document stays in one module, and is still as that module takes it. Without a cluster."""

import inspect
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import ray.autoscaler
import ray.train
import ray.train.torch
from ray._private import ray_logging, worker
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

import pipelines.run.ray_train
from pipelines.regulation import tasks
from pipelines.run import ray_internals, ray_settings
from tests.support.commands import ROOT

PRIVATE = re.compile(r"^\s*from ray\b[\w.]* import _|\bray(\.\w+)*\._[a-z]|\bray\.train\.v2\b", re.MULTILINE)
INTERNALS, TRAIN = Path(ray_internals.__file__), Path(pipelines.run.ray_train.__file__)
ALLOWED = {path.relative_to(ROOT).as_posix() for path in (INTERNALS, TRAIN)} | {
    "tests/unit/run/test_ray_internals.py",
    "tests/pipelines/run/test_ray_internals.py",
}


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@pytest.mark.parametrize(
    "line",
    [
        "from ray._private import worker",
        "from ray import _private",
        "    import ray._common.utils",
        "x = ray._private.worker",
        "from ray.data._internal.execution import callbacks",
        "from ray.autoscaler._private.util import prepare_config",
        "from ray.train.v2.api.config import RunConfig",
    ],
)
def test_such_a_line_is_found(line):
    assert PRIVATE.search(line)


@pytest.mark.parametrize("line", ["from ray.train import RunConfig", "import ray_job", "ray.train.torch.TorchTrainer"])
def test_such_a_line_is_none(line):
    assert not PRIVATE.search(line)


def test_inner_parts_of_ray_are_named_in_one_module():
    assert set(tracked()) >= ALLOWED
    assert [name for name in tracked() if name not in ALLOWED and PRIVATE.search((ROOT / name).read_text())] == []


def test_inner_paths_of_ray_train_are_for_type_checkers_only():
    """What runs are the documented names, and they are the classes whose types are checked."""
    from ray.train.v2.api import config, exceptions, report_config, result
    from ray.train.v2.torch import torch_trainer

    ours = pipelines.run.ray_train
    for name in ("CheckpointConfig", "FailureConfig", "RunConfig", "ScalingConfig"):
        assert getattr(ours, name) is getattr(ray.train, name) is getattr(config, name)
    assert ours.Result is ray.train.Result is result.Result
    assert ours.TorchTrainer is ray.train.torch.TorchTrainer is torch_trainer.TorchTrainer
    assert ray.train.LoggingConfig is config.LoggingConfig
    assert ray.train.TrainingFailedError is exceptions.TrainingFailedError
    assert ray.train.CheckpointConsistencyMode is report_config.CheckpointConsistencyMode


def test_loading_the_module_loads_no_slow_part_of_ray():
    code = (
        "import sys, pipelines.run.console; print([name for name in ('ray.data', 'ray.train') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_process_without_ray_is_no_worker():
    code = "from pipelines.run import ray_internals; print(ray_internals.is_worker())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False" and done.stderr == ""


def test_what_workers_print_goes_to_us_and_not_to_ray(monkeypatch):
    dispatcher = ray_logging.WorkerStandardStreamDispatcher()
    monkeypatch.setattr(ray_internals, "global_worker_stdstream_dispatcher", dispatcher)
    printed, shown = [], []
    dispatcher.add_handler("ray_print_logs", printed.append)
    ray_internals.show_worker_output(shown.append)
    dispatcher.emit({"lines": ["one"]})
    assert shown == [{"lines": ["one"]}] and printed == []
    assert 'add_handler(\n                "ray_print_logs"' in inspect.getsource(worker.connect), "Ray's own handler"
    assert worker.global_worker_stdstream_dispatcher is ray_logging.global_worker_stdstream_dispatcher


def test_a_callback_of_ray_data_is_called_at_each_step():
    assert list(inspect.signature(ExecutionCallback.on_execution_step).parameters) == ["self", "executor"]
    assert "on_execution_step" in inspect.getsource(StreamingExecutor)


def test_ray_notes_its_latest_cluster_where_we_look(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    address = "127.0.0.1:6399"
    ray._private.utils.write_ray_address(address, None)
    note = ray_internals.latest_cluster_file()
    assert note.parent == tmp_path / "ray" and note.read_text() == address


def test_a_cluster_file_is_filled_as_ray_up_does_and_checked():
    minimal = {
        "cluster_name": "x",
        "provider": {"type": "aws", "region": "eu-central-1"},
        "auth": {"ssh_user": "ubuntu"},
        "available_node_types": {"head": {"node_config": {}, "resources": {}}},
        "head_node_type": "head",
    }
    prepared = ray_internals.prepared_cluster_file(json.loads(json.dumps(minimal)))
    assert prepared["available_node_types"]["head"]["max_workers"] == 0 and prepared["head_start_ray_commands"]
    with pytest.raises(Exception, match="head_node_type"):
        ray_internals.prepared_cluster_file(minimal | {"head_node_type": "none"})


def test_ray_marks_its_head_with_the_resource_that_we_look_for():
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    assert tasks.HEAD_RESOURCE == HEAD_NODE_RESOURCE_NAME


def test_the_list_for_prometheus_is_a_plain_file_name():
    assert Path(ray_internals.PROMETHEUS_FILE).name == ray_internals.PROMETHEUS_FILE
    assert ray_internals.PROMETHEUS_FILE.endswith(".json")


def test_ray_reads_the_variables_that_we_set():
    """One that Ray has renamed would be without effect, and nobody would be told."""
    from ray._private import ray_constants
    from ray.train.v2._internal import constants

    assert ray_settings.ADDRESS == ray_constants.RAY_ADDRESS_ENVIRONMENT_VARIABLE
    assert ray_settings.API_SERVER == ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
    assert ray_settings.CONTROL_PORT == ray_constants.GCS_PORT_ENVIRONMENT_VARIABLE
    assert ray_settings.LOOPBACK_ONLY.name == ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    assert hasattr(ray_constants, ray_settings.DRAIN_SECONDS.name)
    assert ray_settings.HEALTH_CHECK_SECONDS.name == constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR
    assert ray_settings.NODES_SECONDS.name == constants.WORKER_GROUP_START_TIMEOUT_S_ENV_VAR
    native = Path(ray._raylet.__file__).read_bytes()
    for name in (ray_settings.AUTHENTICATION.name, ray_settings.TOKEN_FILE, ray_settings.SPILL_FOLDER):
        assert name.encode() in native, name


TAKEN = [
    "ray_job.py", "constraints.txt", "pipelines/data/dataset.py", "pipelines/config/presets/lapa.yaml",
    "dmlcsr/taxonomy/files/lapa.yaml", "portraits.yaml", "boxes.json", "boxes.csv", "cluster/demo.py",
    "configs/data/train.yaml",
]  # fmt: skip
LEFT = [
    "raw/LaPa/train/images/a.txt", "data/lapa/dataset.json", "photos/list.txt", "labelled/classes.json",
    "tutorial/run/config.yaml", "runs/first/result.json", "demo/report.html", ".stack/env", ".venv/pyvenv.cfg",
    ".git/config", "mine/a.jpg", "mine/b.png", "c.heic", "set.parquet", "LaPa.tar.gz", "LaPa.zip", "best.pth",
    "model/model.safetensors", "face.onnx", "tests/data/losses.npz", "pipelines/__pycache__/plan.pyc",
]  # fmt: skip


def test_a_job_takes_code_and_settings_along_and_no_data(tmp_path):
    """What is packed is what Ray's own function packs of such a folder."""
    from ray._private.runtime_env import packaging

    tree, package = tmp_path / "tree", tmp_path / "package.zip"
    for name in (*TAKEN, *LEFT):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    packaging.create_package(str(tree), package, include_gitignore=True)
    with zipfile.ZipFile(package) as packed:
        names = {name for name in packed.namelist() if not name.endswith("/")}
    assert names == {*TAKEN, ".rayignore", ".gitignore"}


def test_no_file_that_the_program_needs_is_left_behind():
    needed = ("dmlcsr/", "pipelines/", "cluster/", "ray_job.py", "constraints.txt", "pyproject.toml")
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-from=.rayignore"]
    left = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert left and not [name for name in left if name.startswith(needed)]
