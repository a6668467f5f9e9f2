"""How the project lies: tests mirror the rooms of the code, and no test imports another one."""

import ast

from tests.support.commands import ROOT

TESTS = sorted((ROOT / "tests").rglob("*.py"))
ROOMS = {path.parent.name for path in (ROOT / "pipelines").glob("*/__init__.py")}
OTHER = {"dmlcsr", "cluster", "project"}


def test_no_test_imports_another_test_module():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert not found, "move what tests share to tests/support"


def imported(node):
    """Names of the modules, and what may be modules, that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_the_folders_of_tests_are_the_rooms_of_the_code():
    for kind in ("unit", "pipelines"):
        folders = {path.parent.name for path in (ROOT / "tests" / kind).glob("*/test_*.py")}
        assert folders <= ROOMS | OTHER
