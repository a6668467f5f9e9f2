"""`phases.json`: what a run does since when."""

import pytest

from pipelines import storage
from pipelines.bench.cycle import cycle_ends
from pipelines.run import phases
from pipelines.run.phases import Phase


def test_phases_are_kept_in_order_and_the_same_one_begins_once(tmp_path):
    out = str(tmp_path / "run")
    assert not phases.read(out), "a run of an older program"
    phases.enter(out, "waiting for workers")
    phases.enter(out, "training", 0)
    phases.enter(out, "training", 0)
    phases.enter(out, "training", 1)
    found = phases.read(out)
    assert [phase.text for phase in found] == [
        "waiting for workers", "initial phase, training", "cycle 1, training",
    ]  # fmt: skip
    assert sorted(phase.began for phase in found) == [phase.began for phase in found]
    assert 0 <= phases.ago(found[0].began) < 60 and phases.ago(found[0].began + 3600) == 0


def test_only_the_last_ones_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "MAX_PHASES", 3)
    for cycle in range(5):
        phases.enter(str(tmp_path), "averaging", cycle)
    assert [phase.cycle for phase in phases.read(str(tmp_path))] == [2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"phases": [{"kind": "lunch", "cycle": 1, "began": 0.0}]}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path, content):
    storage.write_bytes(f"{tmp_path}/phases.json", content)
    assert not phases.read(str(tmp_path))
    phases.enter(str(tmp_path), "exporting")
    assert [phase.kind for phase in phases.read(str(tmp_path))] == ["exporting"]


def test_storage_that_takes_nothing_stops_nobody(tmp_path):
    (tmp_path / "file").touch()
    phases.enter(f"{tmp_path}/file/run", "exporting")


def test_the_ends_of_cycles_are_measured_from_phases():
    times = [("training", 1, 0.0), ("averaging", 1, 10.0), ("re-estimating BatchNorm", 1, 11.0)]
    times += [("validating", 1, 14.0), ("exporting", None, 16.0)]
    assert cycle_ends([Phase(*entry) for entry in times]) == [(6.0, 3.0)]
