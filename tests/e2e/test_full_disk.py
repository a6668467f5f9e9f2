"""A really full file system under the folder to which Ray spills, and under its session folder with all its logs."""

import errno
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import run_command, started, wait_for

pytestmark = pytest.mark.faults
DISK_BYTES = 256 << 20
TRAIN = ("train", "--preset", "cpu-smoke", "--schedule.epochs", 4, "--input.size", 128, "--optimizer.batch-size", 8)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of its own. Below /tmp itself: names of sockets are short."""
    folder = Path(tempfile.mkdtemp(prefix="disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        folder.rmdir()
        pytest.skip(f"only root can mount a small file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def fill(disk: Path) -> None:
    """Writes until there is no space left."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("full") / "data"
    done = run_command("synth", "--out", out, "--num-images", 300, "--image-size", 64)
    assert done.code == 0, done.stderr
    return out


def test_a_disk_that_is_full_before_the_command_is_one_sentence(disk, data, tmp_path):
    fill(disk)
    (disk / "filler").open("r+b").truncate(int(0.96 * DISK_BYTES))  # Ray itself needs some kilobytes to start
    done = run_command(*TRAIN, "--data", data, "--out", tmp_path / "run", RAY_TMPDIR=str(disk))
    assert done.code == 2
    assert "full and Ray spills no objects to a disk that is 95% full; free some space" in done.stderr.splitlines()[-1]


# As little memory for objects as Ray allows: less than the decoding would like to keep ready.
STORE = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 << 20)}


def digest(run: Path) -> str:
    """Of the weights that a run has exported."""
    return hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("calm") / "run"
    done = run_command(*TRAIN, "--data", data, "--out", out, **STORE)  # type: ignore[arg-type]
    assert done.code == 0, done.stderr
    return digest(out)


def test_a_spill_folder_that_fills_up_during_a_training_changes_nothing(disk, data, undisturbed, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    process = started(log, *TRAIN, "--data", data, "--out", out, RAY_object_spilling_directory=str(disk), **STORE)
    wait_for((out / "metrics.jsonl").exists, process, log)
    fill(disk)
    assert process.wait(300) == 0, log.read_text()
    assert digest(out) == undisturbed
    assert os.statvfs(disk).f_bavail == 0


def test_a_training_whose_logs_find_no_space_goes_on_when_there_is_some(disk, data, undisturbed, tmp_path):
    """Ray's processes end where they cannot write their logs; it starts them again and again."""
    out, log = tmp_path / "run", tmp_path / "log"
    process = started(log, *TRAIN, "--data", data, "--out", out, RAY_TMPDIR=str(disk), **STORE)
    wait_for((out / "metrics.jsonl").exists, process, log)
    fill(disk)
    wait_for(lambda: "A worker died" in log.read_text(), process, log)
    (disk / "filler").unlink()
    assert process.wait(300) == 0, log.read_text()
    assert digest(out) == undisturbed
