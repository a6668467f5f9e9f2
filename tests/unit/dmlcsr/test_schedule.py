import numpy as np
import pytest

from dmlcsr.schedule import learning_rate
from tests.support.commands import DATA


def test_learning_rates_equal_the_reference() -> None:
    golden = np.load(DATA / "regulation_edges_losses.npz")
    rates = [
        learning_rate(t, lr=1e-3, warmup_epochs=10, csr_start=150, cycle_epochs=10) for t in golden["epochs"].tolist()
    ]
    np.testing.assert_allclose(rates, golden["learning_rates"], rtol=1e-6, atol=0)


def test_phases_may_be_empty() -> None:
    assert learning_rate(0, lr=1.0, warmup_epochs=0, csr_start=5, cycle_epochs=1) == 1.0
    assert learning_rate(0, lr=1.0, warmup_epochs=0, csr_start=0, cycle_epochs=2) == 0.5
    assert learning_rate(2, lr=1.0, warmup_epochs=2, csr_start=2, cycle_epochs=2) == 0.5


@pytest.mark.parametrize(
    "change", [{"epoch": -1.0}, {"warmup_epochs": 6.0}, {"warmup_epochs": -1.0}, {"cycle_epochs": 0.0}]
)
def test_impossible_settings_are_refused(change: dict[str, float]) -> None:
    settings = {"epoch": 0.0, "lr": 1.0, "warmup_epochs": 1.0, "csr_start": 5.0, "cycle_epochs": 1.0} | change
    with pytest.raises(ValueError, match="warmup_epochs"):
        learning_rate(settings.pop("epoch"), **settings)
