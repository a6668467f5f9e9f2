"""Checks the language of the code: docstrings, help texts, messages and comments.

The rules, each held by a short list of words:

1. The first sentence of a docstring or help text does not begin with one of `OPENERS`.
2. A function's first line begins with a verb in the third person ("Writes ...") or with what the function returns: an
   article and a noun, a plural, a shape in parentheses, code in backquotes, `True if`.
3. The docstring of a command is an imperative ("Write ..."): `--help` lists it beside the command's name.
4. `where` stands for places, not for conditions: "Raises ValueError if ...", "None if ...".
5. No text holds one of `PHRASES`: ellipsis, inversion, or a private word where the field has one. A string that is an
   identifier is a key, not a text: files keep their keys.
6. Words have their US spelling, except "labelled": manifests have a key of that name.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ray_job
from tests.support.commands import ROOT

OPENERS = (
    "Also As Because Beside Besides But By For From How Into Nobody Not Nothing Of Out So Such That To Until What "
    "Whatever When Where Wherever Whether Which While Who Whoever Whose Why With Without"
)
PHRASES = (
    r"as far as", r"as good as", r"\bas of\b", r"\bbut for\b", r"counts? (?:no more|nowhere)", r"\bfor ever\b",
    r"\b(?:is|are) there[.;:,]", r"\b(?:is|are|be) told\b", r"\bkitchen\b", r"\bnobody\b", r"\bnotwithstanding\b",
    r"(?:says|say) nothing", r"\bso long\b", r"\bspoilt\b", r"\bstands? for\b", r"\btally\b", r"\btells?\b",
    r"that it cannot do without", r"\bthe same of\b", r"\bthereof\b", r"\btold apart\b", r"what became of",
    r"what is to be said", r"\bwhatever else\b", r"\bwhere (?:there|it) (?:is|are)\b", r"where none",
)  # fmt: skip
CONDITIONAL_WHERE = r"(?:Raises \w+[^.]{0,80}|\b(?:None|True|False|empty|\d),?) where\b"
BRITISH = (
    r"\w*(?:normal|initial|optim|raster|synchron|serial|memor|summar|organ|recogn|regular|general|random|visual|local)"
    r"is(?:e|es|ed|er|ers|ing|ation)\b",
    r"\w*(?:colour|favour|behaviour|neighbour|grey|artefact|unspoilt)\w*", r"\bcentre[ds]?\b", r"\bmetres?\b",
)  # fmt: skip

_STARTS = re.compile(rf"(?:The same|{'|'.join(OPENERS.split())})\b")
_FUNCTION = re.compile(r"[A-Z][\w-]*s\b|(?:The|A|An|All|Each|Every|One|Two|True if|None)\b|[(`\d]")
_EVERYWHERE = re.compile("|".join((*PHRASES, CONDITIONAL_WHERE)), re.IGNORECASE)
_SPELLING = re.compile("|".join(BRITISH), re.IGNORECASE)


class Finding(NamedTuple):
    """A text that breaks a rule."""

    path: Path
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}: {self.rule}: {' '.join(self.text.split())[:110]}"


def room_of(path: Path) -> str:
    """The room of a file: its package below `dmlcsr` or `pipelines`, or the file itself if it stands alone."""
    parts = tuple(part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__")
    if parts == ("pipelines", "ingest", "synth"):
        return "pipelines.ingest.synth"
    if parts[0] == "dmlcsr" and len(parts) == 2:
        return "dmlcsr"
    return ".".join(parts[:2]) if parts[0] in ("dmlcsr", "pipelines", "tests") else parts[0]


def docstrings(tree: ast.Module) -> Iterator[tuple[ast.AST, int, str]]:
    """Every docstring with its owner: a module, class or function, or the assignment that it follows."""
    for owner in ast.walk(tree):
        body = getattr(owner, "body", None)
        before = owner
        for node in body if isinstance(body, list) else ():
            value = node.value if isinstance(node, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield before, value.lineno, value.value
            before = node


def findings(path: Path) -> Iterator[Finding]:
    """Every place in a file that breaks a rule."""
    source = path.read_text()
    tree = ast.parse(source)
    helps = {command.config.__name__ for command in ray_job.COMMANDS.values()}
    for owner, line, docstring in docstrings(tree):
        text = docstring.strip()
        if _STARTS.match(text):
            yield Finding(path, line, "opener", text)
        elif isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef) and not _FUNCTION.match(text):
            yield Finding(path, line, "first word of a function", text)
        elif isinstance(owner, ast.ClassDef) and owner.name in helps and re.match(r"\w+s\b|The\b|A\b", text):
            yield Finding(path, line, "imperative of a command", text)
    texts = [(node.lineno, node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts += [
        (token.start[0], token.string)
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    for line, value in texts:
        if not isinstance(value, str):
            continue
        flat = " ".join(value.split())
        rules = {"spelling": _SPELLING} if value.isidentifier() else {"phrase": _EVERYWHERE, "spelling": _SPELLING}
        for rule, pattern in rules.items():
            for match in pattern.finditer(flat):
                yield Finding(path, line, f"{rule} {match.group()!r}", flat[max(match.start() - 40, 0) :])
    for named in ast.walk(tree):
        name = getattr(named, "name", None) or getattr(named, "arg", None) or getattr(named, "id", None)
        if isinstance(name, str) and (found := _SPELLING.search(name)):
            yield Finding(path, named.lineno, f"spelling {found.group()!r}", name)  # type: ignore[attr-defined]


FILES = [
    ROOT / "ray_job.py",
    *(path for folder in ("cluster", "dmlcsr", "pipelines", "tests/support") for path in (ROOT / folder).rglob("*.py")),
]
ROOMS = sorted({room_of(path) for path in FILES})


@pytest.mark.parametrize("room", ROOMS)
def test_texts_of_a_room_are_plain(room):
    found = [str(finding) for path in sorted(FILES) if room_of(path) == room for finding in findings(path)]
    assert not found, f"{len(found)} findings in {room}:\n" + "\n".join(found)
