"""Trials that share: one initial phase, soups of their ensembles, on the shared cluster."""

import pytest
import torch

from dmlcsr.model import DMLCSR
from dmlcsr.regulation import update_ensemble
from pipelines import status, storage
from pipelines.config.commands import StatusConfig
from pipelines.data import dataset
from pipelines.models import model_directory, setup, weight_files
from pipelines.regulation import soups
from pipelines.regulation.ledger import SOUP, Candidates, Ensemble, Ledger, Soup, TeacherChoice
from pipelines.run import result_file, run_directory
from pipelines.tuning import tune
from tests.support.training import kill_when, smoke, sweep

pytestmark = pytest.mark.faults
"""A whole sweep that shares: too long for each change; the rules of sharing have unit tests."""


@pytest.fixture(scope="module")
def shared(faces, tmp_path_factory):
    """A sweep of two trials that share, and what it returned."""
    csr = {"num_cycles": 2, "cycle_epochs": 1}
    config = sweep(faces, tmp_path_factory.mktemp("shared") / "run", csr=csr, soup=True)
    return config, result_file.run_and_record("tune", config, tune.run)


def test_all_trials_branch_from_one_initial_phase(shared):
    config, result = shared
    warm = run_directory.read_metrics(f"{config.out}/initial")
    ledger = Ledger(config.out)
    starts = [weight_files.read_weights(ledger.find(Ensemble, name, 0).weights) for name in ("00000", "00001")]
    assert len(warm) == config.schedule.epochs
    assert all(torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    for name in ("00000", "00001"):
        assert run_directory.read_metrics(f"{config.out}/trials/{name}")[: len(warm)] == warm
    assert run_directory.read_config(f"{config.out}/initial").loss == config.loss
    assert [trial["epochs"] for trial in result["trials"]] == [3, 3]


def test_each_cycle_has_one_soup_and_every_teacher_is_in_the_ledger(shared):
    config = shared[0]
    ledger = Ledger(config.out)
    tried = ledger.of(Candidates, SOUP)
    assert [record.cycle for record in tried] == [1, 2]
    for soup in ledger.of(Soup, SOUP):
        members = [ledger.find(Ensemble, *name.split("/")[:1], int(name.split("/")[1])) for name in soup.members]
        assert soup.val_mean_f1 >= max(member.val_mean_f1 for member in members)
        assert sum(soup.coefficients.values()) == pytest.approx(1)
    for name in ("00000", "00001"):
        (teacher,) = ledger.of(TeacherChoice, name)
        own = ledger.find(Ensemble, name, 1)
        taught_by = ledger.taught_by(teacher)
        assert taught_by == own if teacher.soup is None else taught_by.val_mean_f1 > own.val_mean_f1
        lineage = model_directory.read_card(f"{config.out}/trials/{name}").lineage
        assert lineage["teachers"]["2"]["coefficients"] == dict(taught_by.coefficients)
    told = status.run(StatusConfig(run=config.out))
    assert "soup 1:" in status.summary(told) and "taught by" in status.summary(told)


def test_the_best_configuration_of_a_shared_sweep_names_its_warm_phase(shared):
    config, result = shared
    best = run_directory.read_config(f"{config.out}/trials/{result['best_trial']}")
    assert best.csr.initial_run == f"{config.out}/initial"


def candidate(config, name, state, score):
    weights = weight_files.write_weights(f"{config.out}/{name}", state)
    return Ensemble(trial=name, cycle=1, weights=weights, val_mean_f1=score, coefficients={f"{name}/1": 1.0})


def test_a_soup_keeps_what_raises_the_score_and_nothing_else(shared, tmp_path):
    """Of two networks that lie on both sides of a trained one, and one that knows nothing."""
    config = smoke(shared[0].data, tmp_path)
    manifest = dataset.read_manifest(config.data)
    scorer = soups.SoupScorer(config, manifest)
    ledger = Ledger(shared[0].out)
    good = weight_files.read_weights(ledger.find(Ensemble, "00000", 2).weights)
    torch.manual_seed(0)
    network = DMLCSR(setup.model_card(config, manifest.taxonomy).architecture)
    ignorant = network.state_dict()
    noise = {
        name: torch.randn_like(value) * value.std() / 2 if value.ndim > 1 else torch.zeros_like(value)
        for name, value in good.items()
    }
    states = [{name: value + sign * noise[name] for name, value in good.items()} for sign in (1, -1)]
    scored = [(scorer.reestimate_and_score(state)[1], state) for state in (*states, ignorant)]
    ranked = [candidate(config, f"t{i}", state, score) for i, (score, state) in enumerate(scored)]
    ranked = sorted(ranked, key=lambda one: -one.val_mean_f1)
    settings = {"config": config.model_dump(mode="json"), "manifest": manifest.model_dump(mode="json")}
    soup = soups.make_soup(settings, ranked, 1, str(tmp_path / "soup"))
    assert soup == soups.make_soup(settings, ranked, 1, str(tmp_path / "soup"))
    assert sorted(soup.members) == ["t0/1", "t1/1"] and soup.coefficients == {"t0/1": 0.5, "t1/1": 0.5}
    assert soup.val_mean_f1 > max(score for score, _ in scored)
    made = weight_files.read_weights(soup.weights)
    wanted = update_ensemble(states[0], states[1], 1)
    assert all(torch.allclose(made[name], wanted[name], atol=1e-6) for name in wanted if "running" not in name)
    assert storage.exists(soup.weights.uri)


@pytest.mark.parametrize("record", ["soup/candidates-001.json", "00000/average-002.json", "soup/soup-001.json"])
def test_a_shared_sweep_whose_orchestrator_is_killed_has_neither_gaps_nor_duplicates(
    shared, ray_cluster, tmp_path, record
):
    config = shared[0].model_copy(update={"out": str(tmp_path / "run")})
    thread, killed = kill_when((tmp_path / "run/ledger" / record).exists, "Orchestrator", ray_cluster)
    result = tune.run(config)
    thread.join()
    assert killed and [trial["state"] for trial in result["trials"]] == ["finished", "finished"]
    ledger = Ledger(config.out)
    for name in ("00000", "00001"):
        assert [ensemble.cycle for ensemble in ledger.of(Ensemble, name)] == [0, 1, 2]
        assert [teacher.cycle for teacher in ledger.of(TeacherChoice, name)] == [2]
    assert [record.cycle for record in ledger.of(Candidates, SOUP)] == [1, 2]
