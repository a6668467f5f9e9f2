"""After a whole circle of submitted commands on S3, no credential is in anything that they, or Ray, have left."""

import os
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from cluster.head import Head, start_head, stop_head
from cluster.object_store import client
from tests.support.commands import ROOT

CIRCLE = """
python -m tests.support.one_driver <<END
synth --num-images 30 --image-size 48 --label-noise 0.5 --out {0}/data
train --preset cpu-smoke --schedule.epochs 1 --csr.num-cycles 1 --csr.cycle-epochs 1 --data {0}/data --out {0}/run
evaluate --model {0}/run --data {0}/data --json --verbose
relabel --model {0}/run --data {0}/data --out {0}/better --suspects 2
report --run {0}/run --out {0}/page.html
END
python ray_job.py train --data {0}/none --out {0}/failed
"""


@pytest.fixture(scope="module")
def head(s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Head, Path, int]]:
    """A head, what it writes in a folder of its own, and its process."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))  # below /tmp itself: names of sockets are short
    found, process = start_head(folder / "head", 4, {"RAY_TMPDIR": str(folder)})
    try:
        yield found, folder, process.pid
    finally:
        stop_head(found, process)
        shutil.rmtree(folder)


@contextmanager
def arguments_of_all_processes(root: int) -> Iterator[set[str]]:
    """Every command line of a process and its descendants for the time of a `with` block."""
    seen: set[str] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            for process in psutil.Process(root).children(recursive=True):
                with suppress(psutil.Error):
                    seen.add(" ".join(process.cmdline()))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_no_credential_is_left_anywhere(s3, head):
    running, folder, pid = head
    token = Path(running.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
    secrets = [os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"], token]
    place = f"{s3}/credentials"
    command = ["ray", "job", "submit", "--working-dir", ".", "--", "sh", "-c", CIRCLE.format(place)]
    with arguments_of_all_processes(pid) as arguments:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | running.environment, capture_output=True, text=True, timeout=500
        )
    assert "is not a data set" in done.stdout and done.returncode == 1, "the last command fails, and says why"
    request = urllib.request.Request(f"{running.dashboard}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request) as answer:
        jobs = answer.read()
    assert b"relabel --model" in jobs and any("ray_job.py train" in each for each in arguments)

    left = {"output": done.stdout + done.stderr, "jobs": jobs, "arguments": "\n".join(arguments)}
    left |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    del left[running.environment["RAY_AUTH_TOKEN_PATH"]]  # its own place
    store = client(os.environ)
    left |= {name: store.cat_file(name) for name in store.find(place.removeprefix("s3://"))}
    for made in ("data/dataset.json", "run/environment.json", "better/suspects/coco.json", "page.html"):
        assert f"{place.removeprefix('s3://')}/{made}" in left
    assert any(name.endswith(".log") for name in left), "Ray's logs are looked through"
    for name, content in left.items():
        for secret in secrets:
            assert secret.encode() not in (content.encode() if isinstance(content, str) else content), name
