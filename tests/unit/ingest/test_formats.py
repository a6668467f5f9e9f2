"""The table of raw formats: a format that is added to it is ingested, and nothing else needs to know of it."""

import re
from dataclasses import replace
from typing import get_args

import cv2
import numpy as np
import pytest

from dmlcsr.taxonomy import Taxonomy
from pipelines.config.commands import IngestConfig, RawFormatName
from pipelines.data import images
from pipelines.errors import UserError
from pipelines.ingest import label_rules, rows
from pipelines.ingest.checks import decode_ids
from pipelines.ingest.formats import FORMATS, IMAGE, FileRole, RawFormat
from pipelines.ingest.label_files import LABEL
from tests.support.commands import ROOT
from tests.support.raw_trees import list_all

NAMES = get_args(RawFormatName)
EYES = Taxonomy("eyes", ("background", "left", "right"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


def locate(path):
    """`<number>.face.png`, `<number>.left.png` and `<number>.right.png`."""
    name, _, role = path.stem.partition(".")
    return FileRole(name, IMAGE if role == "face" else role) if name.isdigit() else None


def compose(config, files):
    left, right = (decode_ids(files[part]) > 0 for part in ("left", "right"))
    return (left + 2 * right).astype(np.uint8)


def odd_and_even(config, source, ids):
    return {name: ("train", "val")[int(name) % 2] for name in ids if int(name) < 10}


TOY = RawFormat(
    locate=locate,
    expected="<number>.face.png, <number>.left.png and <number>.right.png",
    taxonomy=EYES,
    parts=("left", "right"),
    all_parts_required=True,
    compose=compose,
    splits=odd_and_even,
    shares_otherwise=False,
    list_files=(),
    has_split_lists=False,
)


def save(root, name, pixels):
    cv2.imwrite(str(root / name), pixels)


def add_face(root, number):
    mask = np.zeros((16, 16), np.uint8)
    save(root, f"{number}.face.png", np.full((16, 16, 3), number, np.uint8))
    for part, column in (("left", 2), ("right", 9)):
        save(root, f"{number}.{part}.png", cv2.rectangle(mask.copy(), (column, 4), (column + 3, 8), 255, -1))


def toy_config(root):
    """Of the sixth format. The command line takes it as soon as `RawFormatName` names it."""
    known = IngestConfig(format="pairs", taxonomy="lapa", source=str(root), out=f"{root}/out")
    return known.model_copy(update={"format": "toy", "taxonomy": None})


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(FORMATS, "toy", TOY)


def test_a_sixth_format_is_listed_split_composed_and_packed(toy, tmp_path):
    for number in (1, 2, 3, 40):
        add_face(tmp_path, number)
    save(tmp_path, "5.face.png", np.zeros((16, 16, 3), np.uint8))
    save(tmp_path, "5.left.png", np.zeros((16, 16), np.uint8))
    save(tmp_path, "2.nose.png", np.zeros((16, 16), np.uint8))
    save(tmp_path, "cover.png", np.zeros((16, 16), np.uint8))
    config = toy_config(tmp_path)
    listing = list_all(config)
    found = {split: sorted(sample.id for sample in samples) for split, samples in listing.samples.items()}
    assert found == {"train": ["2"], "val": ["1", "3"], "test": []}
    reasons = {problem["source"].rsplit("/", 1)[-1]: problem["reason"] for problem in listing.rejected}
    assert reasons == {"5.face.png": "incomplete_label", "2.nose.png": "unknown_part", "40.face.png": "no_split"}
    packed = rows.pack_samples(listing.samples["val"], label_rules.label_reader(config))
    assert not packed.rejected and sorted(row["id"] for row in packed.rows) == ["1", "3"]
    label = images.decode_label(packed.rows[0]["label"])
    assert (label[4:9, 2:6] == 1).all() and (label[4:9, 9:13] == 2).all() and np.count_nonzero(label) == 40


def test_what_a_format_composes_of_one_file_is_packed_not_the_file(toy, monkeypatch, tmp_path):
    """Its ids may begin at another number, for instance."""
    for number in (1, 2):
        add_face(tmp_path, number)
        (tmp_path / f"{number}.right.png").unlink()
        save(tmp_path, f"{number}.left.png", np.full((16, 16), 3 - number, np.uint8))
    one_file = replace(
        TOY,
        locate=lambda path: FileRole(path.stem.partition(".")[0], IMAGE if ".face" in path.stem else LABEL),
        parts=(LABEL,),
        compose=lambda config, files: np.minimum(decode_ids(files[LABEL]), 1),
        splits=lambda config, source, ids: dict.fromkeys(ids, "train"),
    )
    monkeypatch.setitem(FORMATS, "toy", one_file)
    config = toy_config(tmp_path)
    samples = sorted(list_all(config).samples["train"])
    first, second = rows.pack_samples(samples, label_rules.label_reader(config)).rows
    assert (images.decode_label(first["label"]) == 1).all() and (images.decode_label(second["label"]) == 1).all()
    assert second["label"] == (tmp_path / "2.left.png").read_bytes(), "what is as it should be stays byte for byte"


def test_a_folder_without_a_sample_is_told_what_was_expected(toy, tmp_path):
    save(tmp_path, "cover.png", np.zeros((16, 16), np.uint8))
    with pytest.raises(UserError, match=r"no toy samples: expected <number>\.face\.png, .*; found 1 \.png"):
        list_all(toy_config(tmp_path))


def test_a_format_without_a_taxonomy_asks_for_one(toy, monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "toy", replace(TOY, taxonomy=None))
    with pytest.raises(UserError, match="--taxonomy is required for --format toy"):
        label_rules.label_reader(toy_config(tmp_path))


def test_the_command_line_the_table_and_the_pages_name_the_same_formats():
    assert set(FORMATS) == set(NAMES)
    section = (ROOT / "docs" / "data.md").read_text().partition("## Formats")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(NAMES)
    assert f"`ingest --format {'|'.join(NAMES)}`" in (ROOT / "README.md").read_text()


def test_a_format_decides_everything():
    with pytest.raises(TypeError, match="compose"):
        RawFormat(locate=locate, expected="", taxonomy=None, parts=(), all_parts_required=True, splits=odd_and_even)
