"""`bench` as a user runs it, with its shortest measurement."""

import json

import pytest

from tests.support.commands import run_command


@pytest.mark.faults
def test_a_measurement_is_told_and_written(tmp_path):
    done = run_command("bench", "--measurements", "cycle", "--out", tmp_path / "bench.json", "--json")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "bench.json").read_text())["cycle"]["ratio"] > 0
    assert done.result["cycle"] == json.loads((tmp_path / "bench.json").read_text())["cycle"]
