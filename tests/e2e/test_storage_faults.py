"""Commands on an object store that answers 503, resets connections in mid-upload, or loses its answers."""

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.object_store import ObjectStore, client, object_store
from pipelines import storage
from pipelines.data import dataset
from pipelines.data.dataset import Manifest
from pipelines.run import lock
from tests.support.commands import run_command, started, variables, wait_for
from tests.support.networks import untrained_model
from tests.support.proxy import Proxy, proxy

SYNTH = ("--image-size", 64, "--label-noise", 0.4)
OUTAGE_SECONDS = 30.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A server; this process reaches it too, and no other one."""
    with object_store(tmp_path_factory.mktemp("faulty") / "objects") as store, variables(store.environment):
        client(store.environment).mkdir("faulty")
        yield store


@pytest.fixture
def faulty(store: ObjectStore) -> Iterator[Proxy]:
    with proxy(store.environment["AWS_ENDPOINT_URL"]) as running:
        yield running


@pytest.fixture(scope="module")
def data(store: ObjectStore) -> str:
    return synthesised(store.environment["AWS_ENDPOINT_URL"], "data", 240)


def synthesised(endpoint: str, name: str, num_images: int) -> str:
    uri = f"s3://faulty/{name}"
    done = run_command("synth", "--out", uri, "--num-images", num_images, *SYNTH, AWS_ENDPOINT_URL=endpoint)
    assert done.code == 0, done.stderr
    return uri


def manifest(uri: str) -> Manifest:
    return dataset.read_manifest(uri)


def through(faulty: Proxy, log: Path, begun: str, *arguments: object) -> str:
    """What a command prints that has a store of 503 for 30 s as soon as `begun` is there."""
    fs = client(os.environ)
    process = started(log, *arguments, AWS_ENDPOINT_URL=faulty.endpoint)
    wait_for(lambda: fs.exists(begun) and fs.find(begun), process, log)
    with faulty.failing("slow_down"):
        time.sleep(OUTAGE_SECONDS)  # the outage itself
    assert process.wait(300) == 0, log.read_text()
    assert faulty.hits["slow_down"]
    return log.read_text()


def test_a_data_set_made_through_resets_in_mid_upload_and_503_is_that_of_a_sound_store(store, faulty, tmp_path):
    command, log = ("synth", *SYNTH, "--num-images", 30, "--out"), tmp_path / "log"
    faulty.fault, faulty.every = "reset", 2
    disturbed = started(log, *command, "s3://faulty/disturbed", AWS_ENDPOINT_URL=faulty.endpoint)
    sound = started(tmp_path / "sound.log", *command, "s3://faulty/sound")  # beside the other: half the time
    wait_for(lambda: faulty.hits["reset"] >= 3, disturbed, log)
    with faulty.failing("slow_down"):
        wait_for(lambda: faulty.hits["slow_down"] >= 5, disturbed, log)
    assert sound.wait(100) == 0 and disturbed.wait(100) == 0, log.read_text()
    disturbed_made, sound_made = (manifest(f"s3://faulty/{name}").model_dump() for name in ("disturbed", "sound"))
    assert disturbed_made == sound_made, "the digests of the files are among what is compared"
    assert "the object store does not answer" in log.read_text()


def test_a_run_whose_record_was_written_but_not_answered_is_its_own(store, faulty):
    with (
        variables({"AWS_ENDPOINT_URL": faulty.endpoint}),
        faulty.failing("lost_answer", every=2),
        lock.ownership("s3://faulty/owned"),
    ):
        found = lock.current_owner("s3://faulty/owned")
        assert found is not None and found.pid == os.getpid()
    assert faulty.hits["lost_answer"]


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["reset", "lost_answer"])
def test_uploads_in_parts_arrive_whole(store, faulty, tmp_path, fault):
    """Two ways: as we write objects, and as Ray Train uploads checkpoints."""
    import pyarrow.fs

    content = os.urandom(120 << 20)
    (tmp_path / "weights").write_bytes(content)
    with variables({"AWS_ENDPOINT_URL": faulty.endpoint}), faulty.failing(fault, every=2):
        fs, path = storage.arrow_filesystem(f"s3://faulty/{fault}/uploaded")
        storage.write_bytes(f"s3://faulty/{fault}/written", content)
        pyarrow.fs.copy_files(str(tmp_path), path, pyarrow.fs.LocalFileSystem(), fs)
    assert faulty.hits[fault] >= 6  # the first of two tries of each part, at least
    for name in ("written", "uploaded/weights"):
        assert client(store.environment).cat_file(f"faulty/{fault}/{name}") == content


@pytest.mark.faults
def test_a_training_goes_through_30_seconds_of_503_and_resets_to_the_same_weights(store, faulty, data, tmp_path):
    arguments = ("train", "--preset", "cpu-smoke", "--schedule.epochs", 8, "--data", data, "--json", "--out")
    log = tmp_path / "log"
    text = through(faulty, log, "faulty/run/metrics.jsonl", *arguments, "s3://faulty/run")
    assert "SlowDown" in text or "does not answer" in text
    with faulty.failing("reset", every=2):
        done = run_command(*arguments, "s3://faulty/reset-run", AWS_ENDPOINT_URL=faulty.endpoint)
    assert done.code == 0, done.stderr
    assert faulty.hits["reset"]
    calm = run_command(*arguments, "s3://faulty/calm-run")
    assert calm.code == 0, calm.stderr
    fs = client(store.environment)
    found = {fs.cat_file(f"faulty/{name}/model/model.safetensors") for name in ("run", "reset-run", "calm-run")}
    assert len({hashlib.sha256(weights).hexdigest() for weights in found}) == 1


@pytest.mark.faults
def test_a_relabelling_goes_through_30_seconds_of_503_and_resets_to_the_same_rows(store, faulty, data, tmp_path):
    for name, content in untrained_model().items():
        client(store.environment).pipe_file(f"faulty/model/{name}", content)
    arguments = ("relabel", "--data", data, "--model", "s3://faulty/model", "--json", "--out")
    through(faulty, tmp_path / "log", "faulty/better/receipts/train", *arguments, "s3://faulty/better")
    with faulty.failing("reset", every=2):
        done = run_command(*arguments, "s3://faulty/reset-better", AWS_ENDPOINT_URL=faulty.endpoint)
    assert done.code == 0, done.stderr
    calm = run_command(*arguments, "s3://faulty/calm-better")
    assert calm.code == 0, calm.stderr
    digests = {manifest(f"s3://faulty/{name}").digest for name in ("better", "reset-better", "calm-better")}
    assert len(digests) == 1 and faulty.hits["reset"]
