"""What all tests share. Pipeline tests use one Ray cluster and one S3 server per session."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support.commands import variables

# A busy machine is no fault. `--hypothesis-profile=thorough` is what `make test-faults` gives.
# The same examples in each run: a change makes a test fail, not the draw. `thorough` draws others each time.
hypothesis.settings.register_profile("usual", deadline=None, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("usual")

MARKS_OF_FIXTURES = {"ray_cluster": ("ray", "slow"), "s3": ("s3",), "browser": ("browser",)}
"""What a test needs that uses such a fixture, also by way of another."""
MARKS_OF_FOLDERS = {"tests/e2e": ("ray", "slow")}
"""What every test of a folder needs: those of e2e start clusters of their own."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks each test with what it needs, so that `pytest -m "not ray"` works in any folder."""
    for item in items:
        folder = item.path.relative_to(config.rootpath).as_posix()
        marks = {mark for start, found in MARKS_OF_FOLDERS.items() if folder.startswith(f"{start}/") for mark in found}
        used = set(getattr(item, "fixturenames", ()))
        marks |= {mark for fixture, found in MARKS_OF_FIXTURES.items() if fixture in used for mark in found}
        for mark in sorted(marks):
            item.add_marker(mark)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Two threads on two shared cores are several times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on a real S3 server, `s3://bucket`; this process and its children have the credentials."""
    from cluster.object_store import client, object_store

    with object_store(tmp_path_factory.mktemp("store") / "objects") as store, variables(store.environment):
        client(store.environment).mkdir("faces")
        yield "s3://faces"


@pytest.fixture(scope="session")
def ray_cluster(s3: str) -> Iterator[str]:
    """One local cluster for all pipeline tests, and the address of its dashboard; its workers reach the S3 server."""
    import ray

    from pipelines.run.session import start_local

    context = start_local(8, log_to_driver=False, logging_level="ERROR")
    yield f"http://{context.dashboard_url}"
    ray.shutdown()


@pytest.fixture(scope="session")
def faces(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed data set of 60 procedural faces of 96 pixels: 48 / 6 / 6 rows."""
    from pipelines.config.commands import SynthConfig
    from pipelines.ingest import synth

    out = tmp_path_factory.mktemp("faces") / "data"
    synth.run(SynthConfig(out=str(out), num_images=60, image_size=96, label_noise=0.5))
    return out
