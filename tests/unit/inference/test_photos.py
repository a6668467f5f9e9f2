"""The photos of `predict`: names under which every storage takes their results, and storage that is away."""

import shutil

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.commands import PredictConfig
from pipelines.data.packing import Shard
from pipelines.errors import UserError
from pipelines.inference import photos
from pipelines.inference.predict import LabelActor
from tests.support.relabelling import write_model

PARTS = st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=300) | st.sampled_from(
    ["..", "a", "a.png"]
)
KEYS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@given(st.lists(KEYS.map(lambda key: f"s3://photos/{key}.jpg"), unique=True, max_size=8))
def test_results_have_different_names_that_every_storage_takes(uris):
    names = photos.output_names("s3://photos", uris)
    assert len(set(names)) == len(uris)
    for name in names:
        assert len(f"cutouts/{name}.png".encode()) < 700
        assert all(part != ".." and len(f".{part}.png.".encode()) + 32 <= 255 for part in name.split("/"))
        assert name.isprintable()


def test_names_are_the_paths_without_suffix_where_that_is_possible():
    uris = [f"/p/{name}" for name in ("a.jpg", "a.png", "a.png.jpg", "below/b.c.jpg", "猫.webp")]
    names = photos.output_names("/p", uris)
    assert names == ["a.jpg", "a.png", "a.png.jpg", "below/b.c", "猫"]
    assert photos.remarks("/p", uris, names) == []


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(f"{tmp_path}/photos/{name}.png", np.zeros((20, 20, 3), np.uint8))
    return tmp_path / "photos"


@pytest.fixture
def piece(folder):
    return Shard("test", 0, [[f"{folder}/{name}.png", name] for name in ("a", "b")])


@pytest.fixture
def actor(folder, tmp_path):
    config = PredictConfig(model=write_model(tmp_path / "model"), images=str(folder), out=str(tmp_path / "out"))
    return LabelActor(config)


def test_a_photo_that_vanished_is_listed_and_the_others_are_labelled(actor, folder, piece, tmp_path):
    (folder / "a.png").unlink()
    (problem,) = actor.label(piece)["rejected"]
    assert (problem["source"], problem["reason"]) == (f"{folder}/a.png", "unreadable")
    assert [path.name for path in (tmp_path / "out/labels").iterdir()] == ["b.png"]


def test_a_folder_that_is_away_stops_the_job_and_no_photo_is_blamed(actor, folder, piece):
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no longer there"):
        actor.label(piece)


def test_an_output_that_cannot_be_written_stops_the_job(actor, piece, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write"):
        actor.label(piece)
