"""What `bench` tells of its measurements."""

import subprocess
import sys

import pytest

from pipelines import bench
from pipelines.config.commands import BenchConfig
from pipelines.errors import RunFailedError


def test_the_table_says_which_goals_are_reached():
    result = {"cores": 2, "loss": {"ratio": 0.2}, "step": {"ratio": 1.3}, "relabel": {"ratio": 0.95}, "out": "/b.json"}
    lines = {line.split()[0]: line for line in bench.summary(result).splitlines()[1:]}
    assert "0.20  <= 0.35 yes" in lines["loss"] and "1.30  <= 1.15 NO" in lines["step"]
    assert "0.95  >= 0.92 yes" in lines["relabel"] and "written to /b.json" in lines["written"]
    assert "stream" not in lines, "what was not measured is not told"


def test_every_measurement_is_a_program_that_says_what_it_is():
    assert tuple(bench.MEASUREMENTS) == BenchConfig(out="/b.json").measurements
    for name in ("loss", "step"):  # each takes seconds to be imported
        done = subprocess.run(
            [sys.executable, "-m", f"pipelines.bench.{name}", "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0 and f"python -m pipelines.bench.{name}" in done.stdout


def test_a_measurement_that_fails_says_why():
    with pytest.raises(RunFailedError, match="No module named"):
        bench.measured("nothing")
