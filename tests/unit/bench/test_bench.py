"""What `bench` tells of its measurements."""

import json
import subprocess
import sys

import pytest

from pipelines import bench
from pipelines.config.commands import BenchConfig
from pipelines.errors import RunFailedError, UserError


def test_the_table_says_which_goals_are_reached():
    result = {"cores": 2, "loss": {"ratio": 0.2}, "step": {"ratio": 1.3}, "relabel": {"ratio": 0.95}, "out": "/b.json"}
    lines = {line.split()[0]: line for line in bench.summary(result).splitlines()[2:]}
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


def test_an_earlier_result_stands_beside_the_new_one(tmp_path, monkeypatch):
    old, out = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"cores": 64, "processor": "another", "loss": {"ratio": 0.4}}))
    monkeypatch.setattr(bench, "measured", lambda name: {"ratio": 0.3})
    config = BenchConfig(out=str(out), against=str(old), measurements=("loss", "step"))
    result = bench.run(config)
    assert json.loads(out.read_text())["loss"]["before"] == 0.4 and "before" not in result["step"]
    lines = bench.summary(result).splitlines()
    assert lines[0].startswith(bench.processor()) and lines[1].endswith("another processor: another")
    (loss,) = [line for line in lines if line.startswith("loss")]
    assert "0.30" in loss and "0.40 (-25 %)" in loss and "bounded by" in loss


@pytest.mark.parametrize("content", ["[]", "{}", '{"loss": 1}', '{"loss": {"ratio": "fast"}}', "no JSON"])
def test_what_is_no_earlier_result_is_one_sentence(content, tmp_path):
    (tmp_path / "old.json").write_text(content)
    with pytest.raises(UserError, match=r"old\.json"):
        bench.run(BenchConfig(out=str(tmp_path / "new.json"), against=str(tmp_path / "old.json")))
