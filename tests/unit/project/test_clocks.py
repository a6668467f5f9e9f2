"""No decision compares the clocks of two hosts: every look at a wall clock is listed here with what it is for."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import ROOT

WALL = {
    ("time", "time"), ("time", "time_ns"), ("time", "localtime"), ("time", "gmtime"), ("time", "strftime"),
    ("time", "ctime"), ("time", "asctime"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"),
    ("datetime", "fromtimestamp"), ("date", "today"),
}  # fmt: skip
FIELDS = {"st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "st_atime", "getmtime", "getctime", "create_time"}
KEYS = {"LastModified", "last_modified", "mtime", "created"}
REVIEWED = {
    ("pipelines/__init__.py", "", "time.time"): "when the command began: for the line of the first batch",
    ("pipelines/run/lock.py", "ownership", "time.time"): "written, for people: since when a driver owns the run",
    ("pipelines/run/lock.py", "_take", "time.strftime"): "shown in a refusal",
    ("pipelines/run/lock.py", "_take", "time.localtime"): "shown in a refusal",
    ("pipelines/run/lock.py", "_beat", "time.time"): "written; others look whether it changes, never what it says",
    ("pipelines/run/driver_log.py", "driver_log", "time.strftime"): "in the name of a log file",
    ("pipelines/run/driver_log.py", "driver_log", "time.gmtime"): "in the name of a log file",
    ("pipelines/run/phases.py", "enter", "time.time"): "written, for people: when a phase began",
    ("pipelines/run/phases.py", "ago", "time.time"): "shown by `status`: how long ago something was written",
    ("pipelines/training/loop.py", "run", "time.time"): "written to metrics.jsonl and TensorBoard, for people",
    ("pipelines/training/loop.py", "_log_first_batch", "time.time"): "a line of the log",
}


def sources() -> Iterator[Path]:
    """All but the measurements of `bench`, which run on one machine and decide nothing."""
    for package in ("pipelines", "dmlcsr"):
        yield from (path for path in sorted((ROOT / package).rglob("*.py")) if path.parent.name != "bench")
    yield ROOT / "ray_job.py"


def looks(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    """(innermost function, what is used) of every look at a wall clock or the time of a file."""
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if (owner, node.attr) in WALL:
                yield inner, f"{owner}.{node.attr}"
            elif node.attr in FIELDS:
                yield inner, node.attr
        elif isinstance(node, ast.Constant) and node.value in KEYS:
            yield inner, str(node.value)
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            yield inner, f"from time import {', '.join(alias.name for alias in node.names)}"
        yield from looks(node, inner)


def test_every_look_at_a_wall_clock_is_reviewed():
    found = Counter(
        (str(path.relative_to(ROOT)), *look) for path in sources() for look in looks(ast.parse(path.read_text()))
    )
    new = sorted(found.keys() - REVIEWED.keys())
    assert not new, f"a new look at a wall clock: use time.monotonic(), or say in REVIEWED what it is for: {new}"
    assert not REVIEWED.keys() - found.keys(), "these are gone: remove them from REVIEWED"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time\ndef f():\n    return time.time() > 3", ("f", "time.time")),
        ("import datetime\nnow = datetime.datetime.now()", ("", "datetime.now")),
        ("def f(path):\n    return path.stat().st_mtime", ("f", "st_mtime")),
        ("def f(fs):\n    return fs.info('x')['LastModified']", ("f", "LastModified")),
        ("from time import time", ("", "from time import time")),
    ],
)
def test_the_review_sees(source, expected):
    assert expected in set(looks(ast.parse(source)))


def test_the_review_lets_monotonic_clocks_pass():
    assert not list(looks(ast.parse("import time\nbegin = time.monotonic()\ntime.sleep(1)")))
