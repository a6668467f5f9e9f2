"""Self-regulation in a training on the shared cluster: real cycles, a real orchestrator, real kills."""

import shutil
import time

import pytest
import ray
import torch
from ray.exceptions import RayActorError

from dmlcsr.regulation import update_ensemble
from dmlcsr.taxonomy import LAPA
from pipelines import status, storage
from pipelines.config.commands import StatusConfig
from pipelines.data import dataset
from pipelines.errors import UserError
from pipelines.models import model_directory, weight_files
from pipelines.regulation import orchestrator
from pipelines.regulation.ledger import Ensemble, Ledger, Student
from pipelines.run import claims, phases, result_file
from pipelines.training import train
from tests.support.training import CSR, history, kill_when, same_weights, smoke, weights


def scores(out):
    ledger = Ledger(str(out))
    return {(kind.__name__, r.cycle): r.val_mean_f1 for kind in (Student, Ensemble) for r in ledger.of(kind, "train")}


def test_each_cycle_averages_once_and_the_best_validated_is_exported(regulated):
    config, result = regulated
    assert result["num_cycles"] == 2 and result["num_epochs"] == 3 and len(history(config.out)) == 3
    measured = scores(config.out)
    assert sorted(measured) == [(kind, cycle) for kind in ("Ensemble", "Student") for cycle in range(3)]
    assert [measured["Student", cycle] for cycle in range(3)] == [row["val_mean_f1"] for row in history(config.out)]
    assert result["val_mean_f1"] == max(measured.values())
    assert model_directory.read_card(config.out).metrics["val_mean_f1"] == result["val_mean_f1"]


def test_the_averages_are_those_of_the_method(regulated):
    ledger = Ledger(regulated[0].out)
    students = [weight_files.read_weights(record.weights) for record in ledger.of(Student, "train")]
    ensembles = [weight_files.read_weights(record.weights) for record in ledger.of(Ensemble, "train")]
    for cycle in (1, 2):
        wanted = update_ensemble(ensembles[cycle - 1], students[cycle], cycle)
        learned = [name for name in wanted if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        assert all(torch.equal(wanted[name], ensembles[cycle][name]) for name in learned)
        moved = [name for name in wanted if name.endswith("running_var")]
        assert any(not torch.equal(wanted[name], ensembles[cycle][name]) for name in moved)
    assert ledger.of(Ensemble, "train")[2].coefficients == pytest.approx(
        {f"train/{cycle}": 1 / 3 for cycle in range(3)}
    )


@pytest.mark.faults
def test_two_workers_go_through_the_same_cycles(faces, tmp_path):
    """None of them may ask for a teacher before it is published: that would cost a failure, and here are none."""
    config = smoke(faces, tmp_path / "run", **CSR, workers={"num_workers": 2, "max_failures": 0})
    result = train.run(config)
    assert sorted(scores(config.out)) == [(kind, cycle) for kind in ("Ensemble", "Student") for cycle in range(3)]
    assert result["val_mean_f1"] == max(scores(config.out).values())


def test_the_orchestrator_ends_with_the_run(regulated):
    with pytest.raises(ValueError, match="Failed to look up actor"):
        orchestrator.connect(regulated[0].out)
    assert not storage.exists(f"{regulated[0].out}/owner.json")


def test_an_orchestrator_that_no_driver_comes_back_for_ends(ray_cluster, tmp_path):
    actor = orchestrator.ACTOR.options(num_cpus=0, max_restarts=-1).remote(str(tmp_path), 2.0)
    assert ray.get(actor.status.remote()) == {"trials": {}, "soups": {}}
    with pytest.raises(RayActorError):
        for _ in range(600):
            ray.get(actor.status.remote())
            time.sleep(0.1)


def test_a_restarted_driver_adopts_the_orchestrator_it_finds(ray_cluster, tmp_path):
    with (
        orchestrator.orchestrator_actor(str(tmp_path)) as first,
        orchestrator.orchestrator_actor(str(tmp_path)) as second,
    ):
        assert first == second or first._actor_id == second._actor_id


def test_a_damaged_ledger_is_told_in_one_sentence_and_left_alone(faces, ray_cluster, tmp_path):
    config = smoke(faces, tmp_path / "run", **CSR)
    claims.write_claim("train", config, config.out, {"data": dataset.read_manifest(str(faces)).digest})
    storage.write_bytes(f"{config.out}/ledger/train/student-000.json", b'{"half')
    with pytest.raises(UserError, match=r"student-000.json is damaged"):
        train.run(config)
    assert storage.read_bytes(f"{config.out}/ledger/train/student-000.json") == b'{"half'


def test_status_tells_cycles_and_lineage_without_a_cluster(regulated):
    told = status.run(StatusConfig(run=regulated[0].out))
    assert told["state"] == "finished" and told["epochs"] == told["num_epochs"] == 3
    assert told["trials"]["train"]["state"] == "finished"
    text = status.summary(told)
    assert "0.33 train/2" in text and "3 of 3 ensembles" in text


def test_phases_tell_what_the_run_did_in_which_cycle(regulated):
    end = ["averaging", "re-estimating BatchNorm", "validating"]
    assert [(phase.kind, phase.cycle) for phase in phases.read(regulated[0].out)] == [
        ("waiting for workers", None),
        ("waiting for the first batch", 0),
        ("training", 0),
        ("averaging", 0),
        ("training", 1),
        *((kind, 1) for kind in end),
        ("training", 2),
        *((kind, 2) for kind in end),
        ("exporting", None),
    ]


def test_status_tells_the_phase_of_a_run_that_was_cut_off(regulated, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(regulated[0].out, out)
    result_file.mark_unfinished("train", str(out))
    phases.enter(str(out), "averaging", 2)
    told = status.run(StatusConfig(run=str(out)))["trials"]["train"]
    assert told["state"] == "interrupted" and told["phase"] == "cycle 2, averaging"
    assert 0 <= told["phase_seconds"] <= told["seconds_since_epoch"]
    (out / "phases.json").unlink()
    told = status.run(StatusConfig(run=str(out)))["trials"]["train"]
    assert told["phase"] is None and told["phase_seconds"] is None, "a run of an older program"


DURING_AN_AVERAGE = "cycles/train/001-student-*"
BEFORE_PUBLISH, BETWEEN_CYCLES = "ledger/train/average-001.json", "ledger/train/ensemble-001.json"
HEAVY = pytest.mark.faults


@pytest.mark.parametrize(
    ("class_name", "sign"),
    [
        ("Orchestrator", DURING_AN_AVERAGE),
        pytest.param("Orchestrator", BEFORE_PUBLISH, marks=HEAVY),
        pytest.param("Orchestrator", BETWEEN_CYCLES, marks=HEAVY),
        pytest.param("RayTrainWorker", BETWEEN_CYCLES, marks=HEAVY),
        pytest.param("RayTrainWorker", DURING_AN_AVERAGE, marks=HEAVY),
        pytest.param("RayTrainWorker", BEFORE_PUBLISH, marks=HEAVY),
        pytest.param("TrainController", BETWEEN_CYCLES, marks=HEAVY),
    ],
)
def test_a_kill_changes_nothing_in_the_end(regulated, faces, ray_cluster, tmp_path, class_name, sign):
    config = smoke(faces, tmp_path / "run", **CSR)
    thread, killed = kill_when(lambda: list((tmp_path / "run").glob(sign)), class_name, ray_cluster)
    train.run(config)
    thread.join()
    assert killed
    assert scores(config.out) == scores(regulated[0].out)
    assert same_weights(weights(config.out), weights(regulated[0].out))


def test_an_exported_model_teaches_a_smaller_student(regulated, faces, tmp_path):
    teacher = regulated[0].out
    short = {"schedule": {"epochs": 1, "warmup_epochs": 0.5}, "model": {"depth": 18, "width": 0.0625}}
    config = smoke(faces, tmp_path / "run", teacher=teacher, **short)
    result = train.run(config)
    assert result["num_cycles"] == 0 and model_directory.read_card(config.out).architecture.width == 0.0625
    plain = smoke(faces, tmp_path / "plain", **short)
    train.run(plain)
    assert history(config.out)[0]["loss_parsing"] != history(plain.out)[0]["loss_parsing"]
    assert history(config.out)[0]["loss_binary_edge"] != 0


def test_a_teacher_of_other_classes_is_refused(faces, tmp_path):
    from dmlcsr.model import Architecture, FaceParser
    from dmlcsr.weights import ModelCard, Preprocessing

    architecture = Architecture(num_classes=11, depth=18, width=0.125)
    card = ModelCard(architecture=architecture, taxonomy=LAPA, preprocessing=Preprocessing(size=64))
    model_directory.write_model(str(tmp_path / "model"), FaceParser(architecture), card)
    with pytest.raises(UserError, match="classes of lapa"):
        train.run(smoke(faces, tmp_path / "run", teacher=str(tmp_path / "model")))


@pytest.mark.faults
def test_two_runs_may_branch_from_one_warm_phase(regulated, faces, tmp_path):
    whole = regulated[0]
    warm = smoke(faces, tmp_path / "warm", schedule=CSR["schedule"])
    train.run(warm)
    branched = smoke(faces, tmp_path / "run", **CSR | {"csr": {**CSR["csr"], "initial_run": warm.out}})
    result = train.run(branched)
    assert result["num_epochs"] == 3 and len(history(branched.out)) == 3
    assert scores(branched.out) == scores(whole.out)
    assert same_weights(weights(branched.out), weights(whole.out))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"schedule": {"epochs": 2, "warmup_epochs": 0.5}}, "3 of 3 epochs; schedule.epochs is 2"),
        ({"schedule": {"epochs": 3, "warmup_epochs": 0.5}, "model": {"width": 0.25}}, "trained with another `model`"),
    ],
)
def test_a_warm_phase_that_does_not_fit_is_refused(regulated, faces, tmp_path, more, message):
    config = smoke(faces, tmp_path / "run", **more, csr={"num_cycles": 1, "initial_run": regulated[0].out})
    with pytest.raises(UserError, match=message):
        train.run(config)
    assert storage.is_empty(config.out)


@pytest.mark.faults
def test_averages_that_do_not_teach_leave_the_students_as_restarts_do(regulated, faces, tmp_path):
    runs = {}
    for method in ("averages", "restarts"):
        runs[method] = smoke(faces, tmp_path / method, **CSR | {"csr": {**CSR["csr"], "method": method}})
        train.run(runs[method])
    students = {method: [row["loss_total"] for row in history(config.out)] for method, config in runs.items()}
    assert students["averages"] == students["restarts"] != [row["loss_total"] for row in history(regulated[0].out)]
    assert sorted(scores(runs["averages"].out)) == sorted(scores(regulated[0].out))
    assert storage.is_empty(f"{runs['restarts'].out}/ledger")
