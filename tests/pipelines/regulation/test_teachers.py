"""Who teaches which epoch: a worker's question to a real orchestrator, and the weights it gets."""

import pytest
import torch

from dmlcsr.model import DMLCSR
from dmlcsr.taxonomy import LAPA
from pipelines.models import setup, weight_files
from pipelines.regulation import orchestrator
from pipelines.regulation.cycles import Cycles
from pipelines.regulation.ledger import Student, Trial
from pipelines.run.ray_calls import get_result
from tests.support.training import same_weights, smoke


def test_each_cycle_is_taught_by_the_ensemble_of_the_one_before(ray_cluster, tmp_path):
    csr = {"num_cycles": 3, "cycle_epochs": 2}
    config = smoke("/data", tmp_path, schedule={"epochs": 1, "warmup_epochs": 0.5}, csr=csr)
    card, trial_ref = setup.model_card(config, LAPA), orchestrator.train_trial_ref(config.out)
    torch.manual_seed(0)
    published = [DMLCSR(card.architecture).state_dict() for _ in range(3)]
    references = [weight_files.write_weights(str(tmp_path / f"{n}"), state) for n, state in enumerate(published)]
    with orchestrator.orchestrator_actor(config.out) as actor:
        trial = Trial(trial=trial_ref.trial, architecture={}, taxonomy="lapa", num_cycles=3)
        get_result(actor.register.remote(trial))
        for cycle, weights in enumerate(references):
            student = Student(trial=trial_ref.trial, cycle=cycle, weights=weights, val_mean_f1=0.5)
            get_result(actor.submit_student.remote(student))
            if cycle:
                get_result(actor.publish.remote(trial_ref.trial, cycle, weights, 0.5))
        cycles = Cycles(config, trial_ref, 0, card, torch.device("cpu"))
        teachers = [cycles.teacher(epoch) for epoch in range(config.num_epochs + 1)]
    # One epoch of the initial phase, two of each cycle, and what would follow: cycles 2 and 3 are taught.
    assert [teacher is not None for teacher in teachers] == [False, False, False, True, True, True, True, False]
    for teacher, cycle in zip(teachers[3:7], (1, 1, 2, 2), strict=True):
        assert same_weights(published[cycle], teacher.network.state_dict())
        assert teacher.label_weight == pytest.approx(1 / (cycle + 1)) and not teacher.network.training
