"""The table of `python -m tests.mutations` fits the code, so that it cannot rot unseen."""

import ast

import pytest
import yaml

from tests.mutations import MUTATIONS, ROOT, Mutation


def functions(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_changes_one_place_and_names_a_test_that_exists(mutation: Mutation) -> None:
    parse = yaml.safe_load if mutation.file.endswith(".yaml") else lambda text: ast.dump(ast.parse(text))
    assert parse(mutation.mutated()) != parse((ROOT / mutation.file).read_text())
    file, _, test = mutation.caught_by.partition("::")
    assert test.partition("[")[0] in functions(file)


def test_names_of_mutations_are_different() -> None:
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS)


def test_a_text_that_is_gone_or_occurs_twice_is_told_by_the_mutations_name(tmp_path) -> None:
    (tmp_path / "code.py").write_text("one = 1\ntwo = 1\n")
    for text, times in (("three", 0), ("= 1", 2)):
        with pytest.raises(ValueError, match=rf"rotten: code.py has {times} times"):
            Mutation("rotten", "code.py", text, "", "").mutated(tmp_path)
