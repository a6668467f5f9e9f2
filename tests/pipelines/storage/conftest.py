"""A proxy that answers as other stores do."""

import pytest

from tests.support.commands import variables
from tests.support.proxy import proxy


@pytest.fixture
def store(server):
    """A proxy in front of a real server, which this process uses."""
    with (
        proxy(server.environment["AWS_ENDPOINT_URL"]) as running,
        variables(dict(server.environment) | {"AWS_ENDPOINT_URL": running.endpoint}),
    ):
        yield running
