"""docs/tutorial.md, command by command, with fewer and smaller faces, and fewer epochs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, run_command

SMALLER = {
    "--num-images 600": "--num-images 60", "--image-size 128": "--image-size 48", "cpu-small": "cpu-smoke",
    "--schedule.epochs 6 --csr.num-cycles 2": "--schedule.epochs 1 --csr.num-cycles 1",
    "--schedule.epochs 4": "--schedule.epochs 1",
}  # fmt: skip


@pytest.mark.timeout(900)
def test_the_tutorial_runs_from_beginning_to_end(head, tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text()
    lines = [
        line for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]
    script = "\n".join(line.removeprefix("dmlcsr ") for line in lines if line.startswith("dmlcsr "))
    for large, small in SMALLER.items():
        assert large in script
        script = script.replace(large, small)
    # A reader's own cluster starts with each command; here one driver runs all.
    env = os.environ | head.driver_environment | {"PYTHONPATH": str(ROOT)}
    driver = [sys.executable, "-m", "tests.support.one_driver"]
    done = subprocess.run(driver, input=script, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-3000:]
    for made in ("run.html", "faces-2.html", "faces-2/suspects/coco.json", "labelled/overlays", "face-parser.onnx"):
        assert (tmp_path / made).exists(), made


def test_dmlcsr_is_the_same_program_as_ray_job():
    program = Path(sys.executable).parent / "dmlcsr"
    assert program.exists(), "pip install -e . again: `dmlcsr` is missing beside Python"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([program, "trian"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == run_command("trian")
