"""What this project takes from inside Ray, on a running cluster."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
import ray.data
from ray._private import worker
from ray.core.generated import autoscaler_pb2

from pipelines.run import preflight, ray_internals
from pipelines.run.ray_internals import AutoscalerLimits, Node


def in_a_thread():
    """What a training function asks: Ray Train runs it in a thread of the worker."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(ray_internals.is_worker()))
    thread.start()
    thread.join()
    return answers[0]


class Asked:
    def is_worker(self):
        return ray_internals.is_worker(), in_a_thread()


def test_tasks_and_actors_are_workers_and_the_driver_is_none(ray_cluster):
    assert not ray_internals.is_worker()
    task = ray.remote(num_cpus=0.1)(lambda: (ray_internals.is_worker(), in_a_thread()))
    actor = ray.remote(num_cpus=0.1)(Asked).remote()
    assert ray.get([task.remote(), actor.is_worker.remote()]) == [(True, True), (True, True)]


@pytest.fixture
def autoscaler(ray_cluster):
    """Tells the cluster what an autoscaler that reads it would: up to three nodes with two GPUs, and none of others."""
    store = worker.global_worker.gcs_client
    names = ray._raylet.GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(), ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE.encode()
    groups = [
        autoscaler_pb2.NodeGroupConfig(name="gpu", max_count=3, resources={"CPU": 16, "GPU": 2, "memory": 2**40}),
        autoscaler_pb2.NodeGroupConfig(name="huge", max_count=0, resources={"CPU": 99, "memory": 2**45}),
    ]
    config = autoscaler_pb2.ClusterConfig(node_group_configs=groups)
    store.internal_kv_put(names[0], config.SerializeToString(), True, names[1])
    yield
    store.internal_kv_del(names[0], False, names[1])


def test_what_an_autoscaler_may_add_is_counted(autoscaler):
    assert ray_internals.autoscaler_limits() == AutoscalerLimits(48, 6, 2**40, (Node(16, 2, 3),))
    found = preflight.capacity()
    assert found[:4] == (48, 6, 2**40, True) and found.nodes == (
        Node(ray.cluster_resources()["CPU"], 0),
        Node(16, 2, 3),
    )


def test_a_cluster_of_its_own_does_not_grow(ray_cluster):
    assert ray_internals.autoscaler_limits() is None
    assert not preflight.capacity().autoscales


def test_a_stream_rests_after_each_step(ray_cluster, monkeypatch):
    rests = []
    monkeypatch.setattr(ray_internals, "time", SimpleNamespace(sleep=rests.append))
    rows = ray.data.range(4, override_num_blocks=2)
    ray_internals.rest_between_steps(rows.context, 0.0123)
    assert rows.map_batches(lambda batch: batch).count() == 4
    assert 0.0123 in rests


def test_the_folder_of_the_session_is_where_ray_writes(ray_cluster):
    """As the documented names give it, which `preflight` asks."""
    context = ray.get_runtime_context()
    folder = Path(context.get_temp_dir()) / context.get_session_name()
    assert folder == Path(worker._global_node.get_session_dir_path()) and (folder / "logs").is_dir()


def test_nodes_are_listed_for_prometheus_in_the_file_that_we_name(ray_cluster):
    file = Path(ray.get_runtime_context().get_temp_dir()) / ray_internals.PROMETHEUS_FILE
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert file.exists()
