"""`inspect` on real data sets: what it counts, and what the page shows."""

import shutil

import cv2
import numpy as np
import pytest

from pipelines import storage
from pipelines.config.commands import InspectConfig
from pipelines.data import dataset, packing
from pipelines.data.images import decode_label
from pipelines.errors import UserError
from pipelines.ingest import ingest
from pipelines.inspection import inspect
from pipelines.inspection.counts import NUM_UNUSUAL
from tests.support.data_sets import pairs, rows_of


def look(data, out):
    result = inspect.run(InspectConfig(data=str(data), out=str(out)))
    return result, storage.read_bytes(str(out)).decode()


def test_counts_are_those_of_a_plain_loop_and_the_page_is_reproducible(faces, tmp_path):
    result, html = look(faces, tmp_path / "page.html")
    manifest = dataset.read_manifest(str(faces))
    labels = [decode_label(row["label"]) for split in manifest.splits for row in rows_of(faces, split)]
    assert result["num_rows"] == manifest.num_rows() and result["remarks"] == {}
    assert result["classes"] == {
        name: {
            "pixels": sum(int((label == part).sum()) for label in labels),
            "images": sum(bool((label == part).any()) for label in labels),
        }
        for part, name in enumerate(manifest.taxonomy.classes)
    }
    num_shown = sum(found["images"] > 0 for found in result["classes"].values())
    assert html.count("<img") == num_shown + inspect.NUM_RANDOM + NUM_UNUSUAL
    assert look(faces, tmp_path / "again.html")[1] == html


def test_a_data_set_on_s3_without_labels_is_shown_without_classes(ray_cluster, s3, faces):
    data, out = f"{s3}/inspected/unlabelled", f"{s3}/inspected/page.html"
    rows = [dict(row, label=None) for row in rows_of(faces, "val")]
    files = {"val": [dataset.write_file(data, "val/part-00000", rows)]}
    packing.write_manifest(data, None, files, [], {"command": "test"})
    result, html = look(data, out)
    assert result["classes"] == {} and result["num_rows"] == {"val": 6}
    assert "Random rows" in html and "Where classes lie" not in html and html.count("<img") == 6


def test_a_relabelled_version_with_damaged_rows_is_shown_with_what_is_wrong(replaced, tmp_path):
    config, made = replaced
    result, html = look(config.out, tmp_path / "page.html")
    assert result["num_rows"] == made["num_rows"]
    assert "Rejected samples" in html and "undecodable" in html


def test_what_ingest_found_is_on_the_page(raw, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(raw, source)
    first, second, third = sorted(source.glob("train/images/*.jpg"))[:3]
    shutil.copy(first, source / "test/images" / f"copy-{first.name}")
    shutil.copy(source / "train/labels" / f"{first.stem}.png", source / "test/labels" / f"copy-{first.stem}.png")
    cv2.imwrite(str(source / "train/labels" / f"{second.stem}.png"), np.zeros((64, 64), np.uint8))
    third.write_bytes(b"damaged")
    packed = ingest.run(pairs(source, tmp_path / "data"))
    assert packed["set_remarks"] == ["1 image is in train and in test, so scores on test say less about new faces"]
    assert packed["set_remarks"][0] in ingest.summary(packed)
    result, html = look(tmp_path / "data", tmp_path / "page.html")
    assert result["remarks"] == {"duplicate_image": 1, "images_in_two_splits": 1, "only_background": 1}
    assert f"the same image as train/{first.stem} in train" in html and "undecodable" in html


def test_what_is_no_data_set_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not a data set"):
        look(tmp_path, tmp_path / "page.html")
