import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.edges import edge_targets
from tests.golden import edges
from tests.support.commands import DATA


@pytest.mark.parametrize("radius", [1, 2])
def test_edges_equal_the_reference(radius: int) -> None:
    golden = np.load(DATA / "regulation_edges_losses.npz")
    label = torch.from_numpy(golden["labels"])
    binary, category = edge_targets(label, radius)
    assert np.array_equal(binary.numpy(), golden[f"binary_edge_r{radius}"])
    assert np.array_equal(category.numpy(), golden[f"category_edge_r{radius}"])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    radius=st.integers(1, 4),
    ids=st.sampled_from([[0], [255], [0, 1], [0, 254], [0, 255], [3, 7, 255], [0, 1, 2, 254, 255]]),
)
def test_edges_equal_a_double_loop(seed: int, height: int, width: int, radius: int, ids: list[int]) -> None:
    label = np.random.default_rng(seed).choice(np.array(ids, np.uint8), (height, width))
    binary, category = edge_targets(torch.from_numpy(label), radius)
    expected = edges(label, radius)
    assert np.array_equal(binary.numpy(), expected[0])
    assert np.array_equal(category.numpy(), expected[1])


def test_the_label_map_is_left_alone() -> None:
    label = torch.tensor([[0, 255], [1, 1]], dtype=torch.uint8)
    edge_targets(label)
    assert label.tolist() == [[0, 255], [1, 1]]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        edge_targets(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="radius"):
        edge_targets(torch.zeros(4, 4, dtype=torch.uint8), 0)
    with pytest.raises(ValueError, match="255"):
        edge_targets(torch.zeros(4, 4, dtype=torch.uint8), ignore=0)
