"""What the orchestrator decides where trials share, as a plain object; how a soup is made is in tests/pipelines."""

import threading
from typing import Any

import pytest
import torch

from pipelines.errors import UserError
from pipelines.models import weight_files
from pipelines.regulation.ledger import (
    SOUP,
    Average,
    Candidates,
    Ledger,
    Soup,
    Student,
    TeacherChoice,
    Trial,
    blend_shares,
)
from pipelines.regulation.orchestrator import Orchestrator
from pipelines.run.paths import RunPaths
from tests.support.tasks import run_in_process

SETTINGS: dict[str, Any] = {"config": {"workers": {"use_gpu": False}}, "manifest": {}}


def trial(name):
    return Trial(trial=name, architecture={"depth": 18}, taxonomy="lapa", num_cycles=3)


def end_cycle(actor, name, cycle, score):
    """Report and publish, as a trial's workers do; weights are a number."""
    uri = RunPaths(actor.run).weights(name, cycle, "student")
    weights = weight_files.write_weights(uri, {"w": torch.tensor([score])})
    step = actor.submit_student(Student(trial=name, cycle=cycle, weights=weights, val_mean_f1=score))
    if isinstance(step, Average):
        actor.publish(name, cycle, step.weights, score)


class FakeSoupTask:
    """Stands for the task that makes soups: answers when it is told to."""

    def __init__(self):
        self.ready, self.asked, self.score = threading.Event(), [], 0.9

    def cook(self, settings, candidates, cycle, uri):
        assert settings == SETTINGS
        self.asked.append([candidate.source for candidate in candidates])
        assert self.ready.wait(30)
        if self.score is None:
            raise RuntimeError("out of memory")
        return Soup(
            trial=SOUP, cycle=cycle, weights=candidates[0].weights, val_mean_f1=self.score,
            coefficients=candidates[0].coefficients, members=[candidates[0].source],
        )  # fmt: skip


@pytest.fixture
def stove(monkeypatch):
    stove = FakeSoupTask()
    run_in_process(monkeypatch, average=weight_files.average, make_soup=stove.cook)
    return stove


@pytest.fixture
def actor(tmp_path, stove):
    """Three trials that have finished their first cycle, b being the best."""
    actor = Orchestrator(str(tmp_path), soup=SETTINGS)
    for name, score in (("a", 0.3), ("b", 0.5), ("c", 0.4)):
        actor.register(trial(name))
        end_cycle(actor, name, 0, 0.1)
        end_cycle(actor, name, 1, score)
    return actor


def cooked(actor, stove):
    """Lets the soups get ready; waits for their threads."""
    stove.ready.set()
    for thread in threading.enumerate():
        if getattr(thread, "_target", None) == actor._make_soup:
            thread.join(30)


def test_a_soup_is_tried_once_per_cycle_of_what_is_there_at_that_moment_best_first(actor, stove):
    end_cycle(actor, "b", 2, 0.6)
    end_cycle(actor, "a", 2, 0.7)
    cooked(actor, stove)
    assert stove.asked == [["b/1", "a/1"], ["b/2", "c/1", "a/1"]]
    assert [soup.cycle for soup in actor.ledger.of(Soup, SOUP)] == [1, 2]


def test_no_more_than_four_candidates_are_tried(tmp_path, stove):
    actor = Orchestrator(str(tmp_path), soup=SETTINGS)
    for number in range(7):
        actor.register(trial(str(number)))
        end_cycle(actor, str(number), 0, 0.1)
        end_cycle(actor, str(number), 1, number / 10)
    end_cycle(actor, "0", 2, 0.05)
    cooked(actor, stove)
    assert stove.asked[1] == ["6/1", "5/1", "4/1", "3/1"]


def test_no_trial_waits_for_a_soup(actor, stove):
    assert actor.teacher("a", 2) == actor.ensemble("a", 1)
    end_cycle(actor, "a", 2, 0.35)
    assert not stove.ready.is_set() and not actor.ledger.of(Soup, SOUP)
    cooked(actor, stove)


def test_a_soup_teaches_the_trials_that_score_lower_and_no_others(actor, stove):
    stove.score = 0.45
    cooked(actor, stove)
    taught = {name: actor.teacher(name, 2) for name in "abc"}
    soup = actor.ledger.find(Soup, SOUP, 1)
    assert taught == {"a": soup, "b": actor.ensemble("b", 1), "c": soup}
    assert [actor.ledger.find(TeacherChoice, name, 2).soup for name in "abc"] == [1, None, 1]


def test_a_teacher_remains_whatever_is_offered_later(actor, stove):
    before = actor.teacher("a", 2)
    cooked(actor, stove)
    assert actor.teacher("a", 2) == before
    again = Orchestrator(actor.run, soup=SETTINGS)
    assert again.teacher("a", 2) == before and again.teacher("c", 2) == actor.ledger.find(Soup, SOUP, 1)


def test_a_soup_that_a_kill_cut_off_is_made_again_of_the_same(actor, stove):
    again = Orchestrator(actor.run, soup=SETTINGS)
    cooked(again, stove)
    cooked(actor, stove)
    assert stove.asked == [["b/1", "a/1"]] * 2
    assert len(Ledger(actor.run).of(Soup, SOUP)) == len(Ledger(actor.run).of(Candidates, SOUP)) == 1


def test_a_soup_that_fails_leaves_the_trials_with_their_own_teachers(actor, stove):
    stove.score = None
    cooked(actor, stove)
    assert actor.teacher("a", 2) == actor.ensemble("a", 1) and not actor.ledger.of(Soup, SOUP)


def test_status_tells_soups_and_who_taught_whom(actor, stove):
    cooked(actor, stove)
    actor.teacher("a", 2)
    told = actor.ledger.summary()
    shares = {"b/0": 0.5, "b/1": 0.5}
    assert told["soups"] == {1: {"val_mean_f1": 0.9, "members": ["b/1"], "coefficients": shares}}
    assert told["trials"]["a"]["teachers"] == {2: 1}
    assert actor.ledger.teachers("a") == {2: {"soup": 1, "coefficients": shares}}


def test_where_trials_do_not_share_nothing_is_tried(tmp_path, stove):
    actor = Orchestrator(str(tmp_path))
    for name in "ab":
        actor.register(trial(name))
        end_cycle(actor, name, 0, 0.1)
        end_cycle(actor, name, 1, 0.2)
    assert stove.asked == [] and not actor.ledger.of(Candidates, SOUP)
    assert actor.teacher("a", 2) == actor.ensemble("a", 1) and len(actor.ledger.of(TeacherChoice, "a")) == 1


def test_a_cycle_whose_predecessor_has_no_ensemble_has_no_teacher(actor, stove):
    cooked(actor, stove)
    with pytest.raises(UserError, match="no ensemble of cycle 2"):
        actor.teacher("a", 3)


def test_shares_of_a_blend_add_up_to_one():
    assert blend_shares({"a/0": 0.5, "a/1": 0.5}, {"b/0": 1.0}, 1) == {"a/0": 0.25, "a/1": 0.25, "b/0": 0.5}
    assert blend_shares({"a/0": 1.0}, {"a/0": 1.0}, 3) == {"a/0": 1.0}


def test_an_orchestrator_that_lives_on_takes_the_soup_settings_of_the_next_driver(tmp_path, stove):
    actor = Orchestrator(str(tmp_path))  # of a driver whose trials shared nothing
    for name, score in (("a", 0.3), ("b", 0.5)):
        actor.register(trial(name))
        end_cycle(actor, name, 0, 0.1)
        end_cycle(actor, name, 1, score)
    assert not stove.asked
    actor.set_soup(SETTINGS)
    actor.set_soup(SETTINGS)
    end_cycle(actor, "a", 2, 0.4)
    cooked(actor, stove)
    assert stove.asked == [["b/1", "a/2"]]
