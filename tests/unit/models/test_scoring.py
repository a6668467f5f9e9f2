"""Scoring and the BatchNorm pass, in one process: what is counted, and what is summed over workers."""

import numpy as np
import pytest
import torch
from torch import nn

from dmlcsr.metrics import Counts, scores
from dmlcsr.model import DMLCSR, Architecture
from dmlcsr.predict import Predictor
from dmlcsr.regulation import reestimate
from dmlcsr.taxonomy import LAPA, get_taxonomy
from dmlcsr.weights import ModelCard, Preprocessing
from pipelines.data.images import encode_png
from pipelines.models import scoring

SIZE = 32
ARCHITECTURE = Architecture(num_classes=11, depth=18, width=0.125)
CARD = ModelCard(architecture=ARCHITECTURE, taxonomy=LAPA, preprocessing=Preprocessing(size=SIZE))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return DMLCSR(ARCHITECTURE).eval()


def rows(num, unlabelled=(), seed=0):
    """A batch of `OrderedRows`; labels have sizes of their own."""
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, 11, (20 + number, 30), np.uint8) for number in range(num)]
    return {
        "image": rng.integers(0, 255, (num, SIZE, SIZE, 3), np.uint8),
        "label": np.array([None if i in unlabelled else encode_png(labels[i]) for i in range(num)], object),
        "reason": np.array(["image_without_label" if i in unlabelled else "" for i in range(num)], object),
    }


def without(batch, places):
    kept = [place for place in range(len(batch["label"])) if place not in places]
    return {name: values[kept] for name, values in batch.items()}


def pooled(network, batches):
    predictor = Predictor(network.decoupled(), CARD)
    total = Counts(11)
    for batch in batches:
        for _, counts in scoring.image_counts(predictor, batch):
            total += counts
    return total


def test_rows_without_a_label_count_nowhere(network):
    batch = rows(4, unlabelled=(0, 2))
    predictor = Predictor(network.decoupled(), CARD)
    found = list(scoring.image_counts(predictor, batch))
    assert [place for place, _ in found] == [1, 3]
    assert [counts.confusion.sum() for _, counts in found] == [21 * 30, 23 * 30]
    assert list(scoring.image_counts(predictor, rows(2, unlabelled=(0, 1)))) == []
    metrics = [scoring.validation_metrics(network, CARD, CPU, [b]) for b in (batch, without(batch, (0, 2)))]
    assert metrics[0] == metrics[1] and metrics[0]["val_mean_f1"] > 0


def test_a_validation_without_any_label_is_zero(network):
    assert scoring.validation_metrics(network, CARD, CPU, [rows(2, unlabelled=(0, 1))]) == {"val_mean_f1": 0.0}


def test_workers_have_the_metrics_of_all_their_rows(network):
    shares = [[rows(3, seed=1)], [rows(2, unlabelled=(1,), seed=2), rows(1, seed=3)]]
    sent = []
    scoring.validation_metrics(network, CARD, CPU, shares[0], lambda value: sent.append(value.clone()))
    assert [int(value.sum()) for value in sent] == [30 * (20 + 21 + 22)]  # pixels
    mine = iter(sent)
    metrics = scoring.validation_metrics(network, CARD, CPU, shares[1], lambda value: value.add_(next(mine)))
    expected = scores(pooled(network, shares[0] + shares[1]), get_taxonomy("lapa"))
    assert metrics == {"val_mean_f1": expected.mean_f1}


def test_the_pass_for_batch_norm_takes_no_more_batches_than_it_may():
    batches = [torch.randn(4, 3, 8, 8) + number for number in range(3)]
    networks = [nn.Sequential(nn.BatchNorm2d(3)) for _ in range(2)]
    scoring.reestimate_batch_norm(networks[0], iter(batches), max_batches=2)
    reestimate(networks[1], batches[:2])
    assert torch.equal(networks[0][0].running_mean, networks[1][0].running_mean)
    assert torch.equal(networks[0][0].running_var, networks[1][0].running_var)
