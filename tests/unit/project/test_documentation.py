"""What README and docs say exists: options, commands, modules, files."""

import importlib.util
import re
import shlex

import pytest

import ray_job
from pipelines.config import options
from pipelines.errors import UserError
from tests import class_tables
from tests.reference import reference
from tests.support.commands import ROOT

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "README.md"]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}


def commands(text):
    """Shell lines in fenced blocks without a language, continuation lines joined, without comments."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if not language:
            yield from (line.partition(" # ")[0] for line in block.replace("\\\n", " ").splitlines())


CALLS = [
    (name, match.group(1))
    for name, text in TEXTS.items()
    for line in commands(text)
    if (match := re.search(r"(?:python (?:\.\./)?ray_job\.py|^dmlcsr) (.+)", line))
]


def test_the_reference_is_that_of_the_code():
    assert TEXTS["docs/reference.md"] == reference(), "run `python -m tests.reference > docs/reference.md`"


def test_the_ids_of_the_taxonomies_are_those_of_the_code():
    assert TEXTS["docs/data.md"] == class_tables.page(TEXTS["docs/data.md"]), "run `python -m tests.class_tables`"


def test_there_are_calls_to_check():
    assert len(CALLS) > 20


@pytest.mark.parametrize(("page", "call"), CALLS)
def test_every_call_in_the_documentation_is_accepted(page, call):
    words = shlex.split(call)
    name, *arguments = words[words[0] == ray_job.PLAN :]
    if name.isupper():
        return  # a pattern, as in `python ray_job.py COMMAND --help`
    command = ray_job.COMMANDS[name]
    flags = options.parse(name, command.config, arguments, command.with_presets)
    try:
        options.resolve(command.config, flags)
    except UserError as error:
        assert "config" in flags and "best.yaml" in str(error), error  # the file of a run that is not here


@pytest.mark.parametrize("page", TEXTS)
def test_modules_and_files_that_a_page_names_exist(page):
    for module in re.findall(r"python -m ((?:cluster|tests|pipelines)\.[\w.]+)", TEXTS[page]):
        assert importlib.util.find_spec(module), module
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXTS[page]):
        assert ((ROOT / page).parent / link).exists(), link
    for path in re.findall(r"`((?:pipelines|dmlcsr|cluster|tests)/[\w/.-]+\.\w+)`", TEXTS[page]):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\bmake ([a-z-]+)", " ".join(commands(TEXTS[page]))):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


SOURCES = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
PROOFS = [
    (page, file, name)
    for page, text in TEXTS.items()
    for file, name in re.findall(r"`([\w/]*test_\w+\.py)(?:::(\w*))?[^`]*`", text)
]


@pytest.mark.parametrize(("page", "file", "name"), PROOFS)
def test_tests_that_a_page_names_as_a_proof_exist(page, file, name):
    """A name may be cut short, as in `test_tune.py::test_a_trial_that_…`."""
    files = [path for path in SOURCES if f"/{path.relative_to(ROOT).as_posix()}".endswith(f"/{file}")]
    assert files and any(f"def {name or 'test_'}" in SOURCES[path] for path in files)
