"""Relabelling by models that have not seen the rows."""

import pytest

from dmlcsr.refine import Policy
from pipelines.config.commands import RelabelConfig
from pipelines.data import dataset, images, row_groups
from pipelines.errors import UserError
from pipelines.models import model_directory
from pipelines.relabeling import relabel
from pipelines.run import claims
from tests.support.data_sets import rows_of
from tests.support.relabelling import by_hand, write_model
from tests.support.training import smoke


@pytest.mark.faults
def test_with_folds_no_model_labels_what_it_was_trained_on(faces, tmp_path):
    recipe = smoke(faces, tmp_path / "recipe", schedule={"epochs": 1, "warmup_epochs": 0.5})
    manifest = dataset.read_manifest(str(faces))
    claims.write_claim("train", recipe, recipe.out, {"data": manifest.digest})
    config = RelabelConfig(model=recipe.out, data=str(faces), out=str(tmp_path / "out"), folds=2, policy="replace")
    relabel.run(config)
    made = dataset.read_manifest(config.out)
    assert made.relabelled["trained_on_data"] is False
    trained = [entry["model"] for entry in made.relabelled["models"]]
    assert [model_directory.read_card(uri).lineage["held_out_fold"] for uri in trained] == ["1/2", "2/2"]
    rows, old = rows_of(config.out), rows_of(faces)
    for fold, uri in enumerate(trained):  # 3 row groups of 16: the folds have the first and third, and the second
        chosen = [number for number in range(48) if number // 16 % 2 == fold]
        expected = by_hand(uri, [old[number] for number in chosen], Policy(name="replace"))
        for number, (_, refined, _, _) in zip(chosen, expected, strict=True):
            assert (images.decode_label(rows[number]["label"]) == refined.label).mean() > 0.999


def test_folds_without_a_recipe_are_refused(mixed, model, tmp_path):
    with pytest.raises(UserError, match=r"the configuration of a run of `train`, and .* is not such a run"):
        relabel.run(RelabelConfig(model=model, data=mixed, out=str(tmp_path / "out"), folds=2))


@pytest.mark.parametrize("name", ["init", "teacher"])
def test_folds_whose_recipe_has_seen_all_rows_are_refused(faces, tmp_path, name):
    manifest = dataset.read_manifest(str(faces))
    seen = write_model(tmp_path / "seen", lineage={"origins": [*manifest.origins, "0" * 64]})
    recipe = smoke(faces, tmp_path / "recipe", **{name: seen})
    claims.write_claim("train", recipe, recipe.out, {"data": manifest.digest})
    with pytest.raises(UserError, match=rf"has seen all rows \({name} = "):
        relabel.run(RelabelConfig(model=recipe.out, data=str(faces), out=str(tmp_path / "out"), folds=2))


def test_folds_leave_out_every_row_once(faces):
    manifest = dataset.read_manifest(str(faces))
    sources = [row_groups.open_split(str(faces), manifest, "train", (fold, 3)) for fold in (1, 2, 3)]
    kept = [row_groups.read_rows(s, s.groups.locate(0, s.num_rows), ("id",)) for s in sources]
    everything = {row["id"] for row in rows_of(faces)}
    left_out = [everything - {row["id"] for row in rows} for rows in kept]
    assert sorted(name for names in left_out for name in names) == sorted(everything)
    assert all(left_out)
