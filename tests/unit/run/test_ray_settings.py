"""Ray's environment variables: named in one module, and a user's own value wins."""

import ast
import os
import re
import subprocess
import sys

import pytest

from pipelines.run import ray_settings
from pipelines.run.ray_settings import Setting
from tests.support.commands import ROOT

BELOW = ROOT / "pipelines" / "storage" / "uris.py"
"""Storage may not import what runs commands; it asks whether it is in a job."""


def names_in(path):
    texts = (node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant))
    return [text for text in texts if isinstance(text, str) and re.fullmatch(r"RAY_\w+", text)]


def test_variables_of_ray_are_named_in_one_module():
    files = {*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("cluster/**/*.py"), ROOT / "ray_job.py"}
    home = ROOT / "pipelines" / "run" / "ray_settings.py"
    assert len(names_in(home)) == 12
    assert {path: names for path in files - {home, BELOW} if (names := names_in(path))} == {}


def imported(**environment):
    """What the import of this project leaves in the environment of a process that had this one."""
    code = """
import os, sys, pipelines
assert "ray" not in sys.modules and "pydantic" not in sys.modules, "nothing slow is loaded"
for name in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE"):
    print(os.environ.get(name))
"""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=inherited | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_local_cluster_is_for_this_machine_and_asks_for_a_token():
    assert imported() == ["0", "token"]


def test_a_given_cluster_may_be_elsewhere():
    assert imported(RAY_ADDRESS="10.0.0.1:6379") == ["None", "token"]


def test_what_the_user_sets_stays():
    assert imported(RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="1", RAY_AUTH_MODE="disabled") == ["1", "disabled"]


@pytest.mark.parametrize(("value", "text"), [(1800, "1800"), (0.2, "0.2"), (0, "0"), ("token", "token")])
def test_a_setting_is_a_text_in_the_environment(value, text, monkeypatch):
    monkeypatch.delenv("RAY_TEST_OF_SETTINGS", raising=False)
    setting = Setting("RAY_TEST_OF_SETTINGS", value)
    assert setting.variables == {"RAY_TEST_OF_SETTINGS": text}
    monkeypatch.setattr(os, "environ", {})
    setting.set_default()
    Setting("RAY_TEST_OF_SETTINGS", "later").set_default()
    assert os.environ == {"RAY_TEST_OF_SETTINGS": text}


def test_a_trial_waits_longer_for_its_place_than_a_training_for_nodes():
    assert ray_settings.TRIAL_PLACE_SECONDS.name == ray_settings.NODES_SECONDS.name
    assert ray_settings.TRIAL_PLACE_SECONDS.value > ray_settings.NODES_SECONDS.value
