"""docs/tutorial.md, command by command, with fewer and smaller faces."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

SMALLER = {"--num-images 600": "--num-images 60", "--image-size 128": "--image-size 48", "cpu-small": "cpu-smoke"}


@pytest.mark.timeout(900)
def test_the_tutorial_runs_from_beginning_to_end(head, tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text()
    lines = [
        line for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]
    script = "\n".join(line for line in lines if line.startswith("dmlcsr "))
    for large, small in SMALLER.items():
        assert large in script
        script = script.replace(large, small)
    scripts = Path(sys.executable).parent
    assert (scripts / "dmlcsr").exists(), "pip install -e . again: `dmlcsr` is missing beside Python"
    # A reader's own cluster starts with each command.
    env = os.environ | head.driver_environment | {"PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{scripts}{os.pathsep}{env['PATH']}"
    done = subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr[-3000:]
    for made in ("run.html", "faces-2.html", "faces-2/suspects/coco.json", "labelled/overlays", "face-parser.onnx"):
        assert (tmp_path / made).exists(), made
