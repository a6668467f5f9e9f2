"""Numbers of CPUs, decode tasks and threads that `workers` leaves to `auto`."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.training import TrainConfig
from pipelines.config.workers import WorkersConfig
from pipelines.errors import UserError
from pipelines.run.preflight import Capacity
from pipelines.run.ray_internals import Node
from pipelines.training import cores


def cluster(*nodes):
    found = tuple(Node(*node) for node in nodes)
    cpus, gpus = (sum(node[place] * node.num_nodes for node in found) for place in (0, 1))
    return Capacity(cpus, gpus, 0, nodes=found)


@pytest.mark.parametrize(
    ("workers", "nodes", "num_trials", "expected"),
    [
        ({}, [(1, 0)], 1, (1, 1, 1)),
        ({}, [(2, 0)], 1, (1, 1, 2)),
        ({}, [(16, 0)], 1, (15, 1, 16)),
        ({}, [(4, 0), (32, 0)], 1, (31, 1, 32)),
        ({"num_workers": 2}, [(16, 0)], 1, (7, 1, 8)),
        ({"num_workers": 2}, [(16, 0), (8, 0)], 1, (7, 1, 8)),
        ({"num_workers": 4}, [(16, 0, 2)], 1, (7, 1, 8)),
        ({}, [(16, 0)], 4, (3, 1, 4)),
        ({"use_gpu": True}, [(16, 1)], 1, (2, 14, 2)),
        ({"use_gpu": True, "num_workers": 8}, [(96, 8), (4, 0)], 1, (2, 10, 2)),
        ({"use_gpu": True}, [(2, 1)], 1, (1, 1, 1)),
        ({"cpus_per_worker": 3}, [(8, 0)], 1, (3, 1, 3)),
        ({"decode_tasks": 3}, [(8, 0)], 1, (5, 3, 8)),
        ({"threads": 2}, [(8, 0)], 1, (7, 1, 2)),
        ({"cpus_per_worker": 4, "use_gpu": True}, [(16, 1)], 1, (4, 12, 4)),
    ],
)
def test_a_worker_computes_on_its_share_of_a_node(workers, nodes, num_trials, expected):
    found = cores.choose(WorkersConfig.model_validate(workers), cluster(*nodes), num_trials)
    assert (found.cpus_per_worker, found.decode_tasks, found.threads) == expected


@given(
    st.lists(st.tuples(st.integers(2, 128), st.just(0), st.integers(1, 5)), min_size=1, max_size=4),
    st.integers(1, 8),
    st.sampled_from([0, 0.1]),
)
def test_what_is_chosen_has_room_on_one_node_and_as_often_as_asked_on_equal_nodes(nodes, num_trials, other_cpus):
    present = cluster(*nodes)
    found = cores.choose(WorkersConfig(), present, num_trials, other_cpus)
    each = found.cpus_per_worker + found.decode_tasks
    assert found.threads <= max(node.cpus for node in present.nodes) and each <= max(2, found.threads)
    if len(nodes) == 1 and (per_node := math.ceil(num_trials / nodes[0][2])) * (2 + other_cpus) <= nodes[0][0]:
        assert per_node * (each + other_cpus) <= nodes[0][0]


def test_a_run_keeps_the_numbers_that_were_chosen_first(tmp_path):
    config = TrainConfig(data="/data", out=str(tmp_path))
    first = cores.settled(config, cluster((4, 0)))
    assert first.are_settled and (first.cpus_per_worker, first.threads) == (3, 4)
    assert cores.settled(config, cluster((64, 0))) == first
    given = config.model_copy(update={"workers": WorkersConfig(threads=2)})
    assert cores.settled(given, cluster((64, 0))).threads == 2, "a given number goes before"
    assert cores.settled(config, cluster((64, 0))).threads == 2, "and stays"
    assert json.loads((tmp_path / "cores.json").read_bytes())["cpus_per_worker"] == 3


def test_numbers_are_chosen_anew_for_other_workers(tmp_path):
    config = TrainConfig(data="/data", out=str(tmp_path))
    assert cores.settled(config, cluster((16, 0))).cpus_per_worker == 15
    more = config.model_copy(update={"workers": WorkersConfig(num_workers=4)})
    assert cores.settled(more, cluster((16, 0))).cpus_per_worker == 3
    assert cores.settled(more, cluster((64, 0))).cpus_per_worker == 3, "and kept"
    on_gpu = config.model_copy(update={"workers": WorkersConfig(use_gpu=True)})
    assert cores.settled(on_gpu, cluster((16, 1))).cpus_per_worker == 2


def test_given_numbers_are_not_stored(tmp_path):
    workers = WorkersConfig(cpus_per_worker=1, decode_tasks=1, threads=1)
    config = TrainConfig(data="/data", out=str(tmp_path / "run"), workers=workers)
    assert cores.settled(config, cluster((4, 0))) == workers and not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"no JSON", b"{}", b'{"cpus_per_worker": 0, "decode_tasks": 1, "threads": 1}'])
def test_a_damaged_record_is_one_sentence(tmp_path, content):
    (tmp_path / "cores.json").write_bytes(content)
    with pytest.raises(UserError, match=r"cores\.json"):
        cores.settled(TrainConfig(data="/data", out=str(tmp_path)), cluster((4, 0)))


def test_a_worker_has_no_more_threads_than_the_machine_has_cores(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert [cores.num_threads(WorkersConfig(threads=number)) for number in (1, 2, 8)] == [1, 2, 2]
