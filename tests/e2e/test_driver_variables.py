"""A cluster whose nodes know nothing of the object store, and a driver whose shell does."""

import os

import pytest

from cluster.head import ray_head
from cluster.object_store import client
from tests.support.commands import run_command


@pytest.fixture(scope="module")
def cluster(s3, tmp_path_factory):
    """A head that was started without endpoint and region, and the file in which it has a profile with credentials."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        profile = f"[faces]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        credentials = folder / "credentials"
        credentials.write_text(profile)
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_S3"))]:
            patch.delenv(name)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with ray_head(folder / "head", num_cpus=2) as head:
            patch.undo()
            yield head, credentials


def synth(head, out, **variables):
    return run_command(
        "synth", "--num-images", 10, "--image-size", 32, "--out", out, **head.driver_environment, **variables
    )


def test_workers_get_endpoint_region_and_profile_from_the_driver(cluster, s3):
    head, credentials = cluster
    out = f"{s3}/handed-on"
    done = synth(head, out, AWS_PROFILE="faces", AWS_SHARED_CREDENTIALS_FILE=str(credentials))
    assert done.code == 0, done.stderr
    assert client(os.environ).exists(f"{out.removeprefix('s3://')}/dataset.json")


def test_secrets_that_only_the_driver_has_are_one_sentence_before_work(cluster, s3):
    head, _ = cluster
    done = synth(head, f"{s3}/secret")
    assert done.code == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: a worker cannot look at {s3}/secret: ")
    assert "start the nodes with AWS_ACCESS_KEY_ID" in last and os.environ["AWS_SECRET_ACCESS_KEY"] not in done.stderr
    assert not client(os.environ).find(f"{s3.removeprefix('s3://')}/secret/train")
