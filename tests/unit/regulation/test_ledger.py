"""The ledger and the orchestrator's decisions, as plain objects, without a cluster but for the averaging task."""

import json
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import storage
from pipelines.errors import UserError
from pipelines.models import weight_files
from pipelines.models.weights_reference import WeightsReference
from pipelines.regulation.ledger import Average, Ensemble, Ledger, Student, TeacherChoice, Trial, TrialEnd
from pipelines.regulation.orchestrator import Orchestrator
from pipelines.run.paths import RunPaths
from tests.support.tasks import run_in_process

TRIAL = Trial(trial="a", architecture={"depth": 18}, taxonomy="lapa", num_cycles=3)


def state(value, **more):
    return {"w": torch.full((2,), float(value)), "steps": torch.tensor(int(value))} | more


def student(run, cycle, value, trial="a", **more):
    uri = RunPaths(str(run)).weights(trial, cycle, "student")
    weights = weight_files.write_weights(uri, state(value, **more))
    return Student(trial=trial, cycle=cycle, weights=weights, val_mean_f1=value / 10)


@pytest.fixture
def here(monkeypatch):
    """Tasks run in this process; returns how often weights were averaged."""
    calls = []

    def averaged(*arguments):
        calls.append(arguments[2])
        return weight_files.average(*arguments)

    run_in_process(monkeypatch, average=averaged)
    return calls


def end_cycle(actor, run, cycle, value):
    """What a trial does at the end of a cycle; the ensemble's weights."""
    step = actor.submit_student(student(run, cycle, value))
    if isinstance(step, Average):
        uri = RunPaths(str(run)).weights("a", cycle, "ensemble")
        weights = weight_files.write_weights(uri, weight_files.read_weights(step.weights))
        actor.publish("a", cycle, weights, value / 10)
    return weight_files.read_weights(actor.ensemble("a", cycle).weights)["w"]


def test_each_ensemble_is_the_mean_of_all_students_so_far(tmp_path, here):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    means = [end_cycle(actor, tmp_path, cycle, value)[0].item() for cycle, value in enumerate((1, 3, 8, 4))]
    assert means == pytest.approx([1, 2, 4, 4])
    assert here == [1, 2, 3]
    shares = actor.ensemble("a", 3).coefficients
    assert shares == pytest.approx({f"a/{cycle}": 0.25 for cycle in range(4)})


@given(st.lists(st.sampled_from(["report", "publish", "restart"]), max_size=8))
@settings(max_examples=25, deadline=None)
def test_whatever_is_repeated_averages_once_and_leaves_no_gap(tmp_path_factory, steps):
    run = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        calls = []
        run_in_process(patch, average=lambda *a: calls.append(a[2]) or weight_files.average(*a))
        actor = Orchestrator(str(run))
        for cycle in range(3):
            actor.register(TRIAL)
            first = end_cycle(actor, run, cycle, cycle + 1)
            for step in steps:
                if step == "restart":
                    actor = Orchestrator(str(run))
                elif step == "report":
                    assert isinstance(actor.submit_student(student(run, cycle, cycle + 1)), Ensemble)
                elif cycle:
                    other = actor.ensemble("a", cycle).weights
                    assert actor.publish("a", cycle, other, 0.0).val_mean_f1 == (cycle + 1) / 10
            assert torch.equal(weight_files.read_weights(actor.ensemble("a", cycle).weights)["w"], first)
        assert calls == [1, 2]
    assert [record.cycle for record in Ledger(str(run)).of(Ensemble, "a")] == [0, 1, 2]


def test_a_kill_between_average_and_publish_repeats_neither(tmp_path, here):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    end_cycle(actor, tmp_path, 0, 1)
    average = actor.submit_student(student(tmp_path, 1, 5))
    again = Orchestrator(str(tmp_path)).submit_student(student(tmp_path, 1, 5))
    assert isinstance(again, Average) and again == average and here == [1]


@pytest.mark.parametrize(
    ("cycle", "trial", "message"),
    [(2, "a", "cycle 1 comes next"), (0, "b", "b is not a trial"), (9, "a", "comes next")],
)
def test_reports_that_make_no_sense_are_refused(tmp_path, here, cycle, trial, message):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    end_cycle(actor, tmp_path, 0, 1)
    with pytest.raises(UserError, match=message):
        actor.submit_student(student(tmp_path, cycle, 2, trial))
    assert len(actor.ledger.of(Student, "a")) == 1


def test_a_trial_is_not_begun_again_as_another(tmp_path):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    actor.register(TRIAL)
    with pytest.raises(UserError, match="another network"):
        actor.register(TRIAL.model_copy(update={"architecture": {"depth": 50}}))


def test_a_trial_that_was_begun_before_there_were_other_stems_continues(tmp_path):
    earlier = TRIAL.model_dump(mode="json") | {"architecture": {"depth": 18}}
    storage.write_json(f"{tmp_path}/ledger/{TRIAL.name}", earlier)
    Orchestrator(str(tmp_path)).register(TRIAL.model_copy(update={"architecture": {"depth": 18, "stem": "deep"}}))


def test_a_student_of_another_architecture_is_refused_and_nothing_is_averaged(tmp_path, here):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    end_cycle(actor, tmp_path, 0, 1)
    with pytest.raises(UserError, match="not of the ensemble's architecture"):
        actor.submit_student(student(tmp_path, 1, 2, more=torch.zeros(3)))
    assert not actor.ledger.of(Average, "a") and len(actor.ledger.of(Student, "a")) == 1
    assert end_cycle(actor, tmp_path, 1, 3)[0] == 2


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        weight_files.write_weights(str(tmp_path / "w"), {"w": torch.tensor([1.0, float("nan")])})
    assert not list(tmp_path.iterdir())


def test_weights_that_changed_since_are_refused(tmp_path):
    weights = weight_files.write_weights(str(tmp_path / "w"), state(1))
    storage.write_bytes(weights.uri, b"other")
    with pytest.raises(UserError, match="damaged"):
        weight_files.read_weights(weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b'{"trial": "a"', "damaged"),
        (b'{"trial": "a"}', "damaged"),
        (json.dumps({"version": 2, "trial": "a", "state": "finished"}).encode(), "version 2; this program reads 1"),
    ],
)
def test_a_record_that_cannot_be_read_is_named(tmp_path, content, message):
    Ledger(str(tmp_path)).write_once(TrialEnd(trial="b", state="finished"))
    storage.write_bytes(str(tmp_path / "ledger/a/end.json"), content)
    with pytest.raises(UserError, match=rf"a/end.json.*{message}"):
        Ledger(str(tmp_path))


def test_the_first_record_of_a_name_remains(tmp_path):
    ledger = Ledger(str(tmp_path))
    first = ledger.write_once(TrialEnd(trial="a", state="stopped"))
    assert ledger.write_once(TrialEnd(trial="a", state="finished")) == first
    assert Ledger(str(tmp_path)).find(TrialEnd, "a") == first


def test_status_tells_where_each_trial_stands(tmp_path, here):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    end_cycle(actor, tmp_path, 0, 1)
    end_cycle(actor, tmp_path, 1, 3)
    actor.finish_trial(TrialEnd(trial="a", state="stopped"))
    told = actor.status()["trials"]["a"]
    assert told["state"] == "stopped" and told["ensembles"] == {0: 0.1, 1: 0.3}
    assert told["lineage"] == {}  # it is most of the whole, and nobody asks the actor for it
    assert actor.ledger.summary()["trials"]["a"]["lineage"][1] == {"a/0": 0.5, "a/1": 0.5}
    assert json.dumps(told)


def test_a_weights_record_holds_no_more_than_it_should():
    with pytest.raises(ValueError):
        WeightsReference.model_validate({"uri": "u", "sha256": "s", "data": "x"})


def test_two_trials_do_not_see_each_other(tmp_path, here):
    actor = Orchestrator(str(tmp_path))
    for name, value in (("a", 1), ("b", 5)):
        actor.register(TRIAL.model_copy(update={"trial": name}))
        actor.submit_student(student(tmp_path, 0, value, name))
    assert [trial.trial for trial in actor.ledger.trials()] == ["a", "b"]
    assert [record.trial for record in actor.ledger.of(Ensemble, "b")] == ["b"]


def test_records_are_listed_while_other_threads_add_some(tmp_path, monkeypatch):
    ledger = Ledger(str(tmp_path))
    weights = WeightsReference(uri="w", sha256="0")
    monkeypatch.setattr(storage, "write_bytes", lambda uri, data: None)  # records in memory are what threads share
    ended, errors = threading.Event(), []

    def read() -> None:
        try:
            while not ended.is_set():
                ledger.of(Student, "a")
        except RuntimeError as error:
            errors.append(error)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        for cycle in range(3000):
            ledger.write_once(Student(trial="a", cycle=cycle, weights=weights, val_mean_f1=0.5))
    finally:
        ended.set()
        thread.join()
        sys.setswitchinterval(usual)
    assert not errors and len(ledger.of(Student, "a")) == 3000


@given(copied=st.integers(0, 3), cycles=st.integers(0, 3), ends=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_copy_spares_requests_and_changes_nothing(tmp_path_factory, copied, cycles, ends):
    """The copy may be missing or lack the latest records, as a kill leaves it."""
    run = str(tmp_path_factory.mktemp("run"))
    written = Ledger(run)
    records = [TRIAL, *(TeacherChoice(trial="a", cycle=cycle + 1, soup=None) for cycle in range(cycles))]
    if ends:
        records.append(TrialEnd(trial="a", state="finished"))
    for number, record in enumerate(records, start=1):
        written.write_once(record)
        if number == copied or (ends and number == len(records)):
            written.write_copy("a")
    for found in (Ledger(run), Ledger(run, "a")):
        assert found.trials() == [TRIAL] and found.find(TrialEnd, "a") == written.find(TrialEnd, "a")
        assert found.of(TeacherChoice, "a") == written.of(TeacherChoice, "a")


def test_a_finished_trial_is_read_from_its_copy_alone(tmp_path):
    actor = Orchestrator(str(tmp_path))
    actor.register(TRIAL)
    actor.finish_trial(TrialEnd(trial="a", state="finished"))
    (tmp_path / "ledger/a/trial.json").unlink()
    assert Ledger(str(tmp_path)).trials() == [TRIAL]


def test_one_trial_is_read_without_the_others(tmp_path):
    ledger = Ledger(str(tmp_path))
    for name in ("a", "b"):
        ledger.write_once(TRIAL.model_copy(update={"trial": name}))
    storage.write_bytes(f"{tmp_path}/ledger/b/end.json", b"damaged")
    assert [trial.trial for trial in Ledger(str(tmp_path), "a").trials()] == ["a"]
