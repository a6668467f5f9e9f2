"""What workers on a given cluster get from the driver's environment."""

import json

import pytest

from pipelines.errors import UserError
from pipelines.run import ray_settings, worker_environment
from pipelines.run.preflight import Needs
from pipelines.run.session import ray_session

SECRET = ("KEY", "SECRET", "TOKEN", "PASSWORD", "KWARGS")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (*worker_environment.HANDED_ON, ray_settings.JOB_CONFIG):
        monkeypatch.delenv(name, raising=False)


def test_endpoint_and_region_are_handed_on_and_secrets_are_not(monkeypatch):
    given = {"AWS_ENDPOINT_URL": "http://store:9000", "AWS_REGION": "eu-1", "FSSPEC_S3_ENDPOINT_URL": "http://store"}
    secrets = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), "hidden")
    secrets |= dict.fromkeys(("FSSPEC_S3_KEY", "FSSPEC_S3_SECRET", "FSSPEC_S3_TOKEN", "FSSPEC_S3"), "hidden")
    for name, value in (given | secrets).items():
        monkeypatch.setenv(name, value)
    assert worker_environment.variables() == given


def test_no_name_of_a_secret_is_among_the_variables():
    assert not [name for name in worker_environment.HANDED_ON if any(part in name for part in SECRET)]


@pytest.mark.parametrize("job", [{}, {"runtime_env": None}, {"runtime_env": {"working_dir": "gcs://x"}}])
def test_a_job_without_variables_of_its_own_hands_on_all(job, monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-1")
    monkeypatch.setenv(ray_settings.JOB_CONFIG, json.dumps(job))
    assert worker_environment.variables() == {"AWS_REGION": "eu-1"}


def test_a_variable_that_the_job_gives_is_not_given_again(monkeypatch):
    """Ray would refuse the second value."""
    monkeypatch.setenv("AWS_REGION", "eu-1")
    monkeypatch.setenv("AWS_PROFILE", "faces")
    monkeypatch.setenv(ray_settings.JOB_CONFIG, json.dumps({"runtime_env": {"env_vars": {"AWS_REGION": "eu-1"}}}))
    assert worker_environment.variables() == {"AWS_PROFILE": "faces"}


def test_an_address_of_ray_client_is_refused_with_what_to_use(monkeypatch):
    monkeypatch.setenv(ray_settings.ADDRESS, "ray://head:10001")
    wanted = pytest.raises(UserError, match=r"^RAY_ADDRESS=ray://head:10001 is an address of Ray Client, .*port 6379")
    with wanted, ray_session(Needs(cpus=1)):
        pass
