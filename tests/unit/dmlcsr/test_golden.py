"""The golden values follow from the formulas of docs/method.md, as tests/golden.py writes them down."""

from pathlib import Path

import numpy as np
import pytest

from tests import golden

FILES = list(golden.RECIPES)


@pytest.mark.parametrize("name", FILES)
def test_every_value_is_made_again(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert golden.main([name]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
def test_this_numpy_draws_the_inputs_that_are_stored(name: str) -> None:
    stored = golden.read(golden.DATA / name)
    for key, drawn in golden.RECIPES[name].draw().items():
        assert drawn.dtype == stored[key].dtype, key
        assert np.allclose(drawn, stored[key], rtol=0, atol=1e-12), key


def test_writing_adds_what_is_missing_and_mends_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "losses_metrics.npz"
    stored = golden.read(golden.DATA / path.name)
    damaged = {key: value for key, value in stored.items() if key not in ("iou", "teacher_logits")}
    np.savez(path, **(damaged | {"lovasz_grad": stored["lovasz_grad"] + np.float32(0.5)}))  # type: ignore[arg-type]
    assert golden.main([str(path)]) == 1
    golden.main([str(path), "--write"])
    assert golden.main([str(path)]) == 0
    mended = golden.read(path)
    assert mended.keys() == stored.keys()
    for key, value in mended.items():
        assert value.dtype == stored[key].dtype
        exact = key != "lovasz_grad"
        assert np.array_equal(value, stored[key]) if exact else np.allclose(value, stored[key], rtol=0, atol=1e-8), key


def test_every_file_of_tests_data_has_a_recipe_or_a_reason() -> None:
    files = {path.name for path in golden.DATA.iterdir() if path.is_file()}
    assert files == {*golden.RECIPES, *golden.NOT_MADE_HERE}
    assert golden.main(list(golden.NOT_MADE_HERE)) == 0
    for name in golden.NOT_MADE_HERE:
        assert name in (golden.__doc__ or "")
