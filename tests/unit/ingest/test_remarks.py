"""Remarks about single rows, and images that a set holds twice."""

import random

import cv2
import numpy as np
import pytest
from PIL import Image

from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ, IGNORE
from pipelines.config.commands import IngestConfig
from pipelines.ingest import label_rules, rows
from pipelines.ingest.duplicates import image_hash
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.set_checks import SetChecks
from tests.support.set_checks import remarks_of


def encoded(image, suffix=".jpg", quality=95):
    return cv2.imencode(suffix, image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def write(folder, name, image, label, orientation=None):
    """Writes a photo, with an EXIF orientation if one is given, and its label; returns the sample."""
    photo, mask = folder / f"{name}.jpg", folder / f"{name}.png"
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(image).save(photo, quality=95, exif=exif)
    Image.fromarray(label).save(mask)
    return RawSample(name, str(photo), (("label", str(mask)),))


def packed(samples):
    """The batch of samples, given by split, and the remarks as (source, reason)."""
    config = IngestConfig(format="pairs", taxonomy="celebamask_hq", source="/nowhere", out="/nowhere")
    rules = label_rules.label_reader(config)
    checks = SetChecks(rules.taxonomy, None)
    rejected, remarks, facts = [], [], []
    for split, some in samples.items():
        batch = rows.pack_samples(some, rules)
        facts.append((split, batch.facts))
        rejected += [(bad["source"].rpartition("/")[2], bad["reason"]) for bad in batch.rejected]
        remarks += batch.remarks
    found = remarks_of(checks, facts, remarks)
    return rejected, [(remark["source"], remark["reason"], remark["detail"]) for remark in found]


def reasons(remarks):
    return [remark[:2] for remark in remarks]


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0,), "only_background"), ((0, IGNORE), "binary_mask"), ((IGNORE,), "binary_mask"), ((0, 1), None)],
)
def test_labels_that_train_no_part_are_remarked(tmp_path, values, expected):
    label = np.resize(np.array(values, np.uint8), (64, 64))
    rejected, remarks = packed({"train": [write(tmp_path, "a", render_face(0, 0, 64).image, label)]})
    assert rejected == [] and reasons(remarks) == ([("a", expected)] if expected else [])


def oblong(index):
    """A face of 48 rows and 64 columns."""
    face = render_face(0, index, 64)
    return face.image[8:56], face.label[8:56]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_label_of_the_photo_before_its_rotation_is_rejected_as_such(tmp_path, orientation):
    image, label = oblong(0)
    rotated = np.ascontiguousarray(np.rot90(label))
    samples = [write(tmp_path, "raw", image, label, orientation), write(tmp_path, "right", image, rotated, orientation)]
    rejected, _ = packed({"train": samples})
    assert rejected == [("raw.jpg", "label_not_rotated")]


def test_another_wrong_size_of_a_rotated_photo_is_no_matter_of_rotation(tmp_path):
    image, label = oblong(0)
    rejected, _ = packed({"train": [write(tmp_path, "a", image, label[:40], 6), write(tmp_path, "b", image, label.T)]})
    assert rejected == [("a.jpg", "label_size"), ("b.jpg", "label_size")]


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_a_rotation_that_keeps_the_size_leaves_open_what_the_label_was_made_on(tmp_path, orientation):
    face = render_face(0, 0, 64)
    _, remarks = packed({"train": [write(tmp_path, "a", face.image, face.label, orientation)]})
    assert ("a", "rotation_unknown") in reasons(remarks)


@pytest.mark.parametrize("orientation", [None, 0, 1, 9])
def test_an_upright_photo_has_no_remark(tmp_path, orientation):
    face = render_face(0, 0, 64)
    assert packed({"train": [write(tmp_path, "a", face.image, face.label, orientation)]}) == ([], [])


def test_images_that_occur_twice_name_the_first_and_leaks_are_counted(tmp_path, caplog):
    faces = [render_face(0, index, 64) for index in range(6)]

    def rows(split, *numbers):
        return [
            write(tmp_path, f"{split}-{place}", faces[number].image, faces[number].label)
            for place, number in enumerate(numbers)
        ]

    samples = {"train": rows("train", 0, 1, 2, 0), "val": rows("val", 3, 1), "test": rows("test", 0, 1, 4)}
    _, remarks = packed(samples)
    assert remarks == [
        (
            "(all rows)", "images_in_two_splits",
            "1 image is in train and in val, so scores on val say less about new faces",
        ),
        (
            "(all rows)", "images_in_two_splits",
            "2 images are in train and in test, so scores on test say less about new faces",
        ),
        (
            "(all rows)", "images_in_two_splits",
            "1 image is in val and in test, so scores on test say less about new faces",
        ),
        ("train-3", "duplicate_image", "the same image as train-0 in train"),
        ("test-0", "duplicate_image", "the same image as train-0 in train"),
        ("val-1", "duplicate_image", "the same image as train-1 in train"),
        ("test-1", "duplicate_image", "the same image as train-1 in train"),
    ]  # fmt: skip
    assert "2 images are in train and in test" in caplog.text


def test_duplicates_do_not_depend_on_the_order_in_which_files_are_finished():
    facts = [("train", f"row/{number}", number % 7) for number in range(40)] + [("test", "ü", 3), ("val", "row/1", 2)]
    found = []
    for seed in range(4):
        checks = SetChecks(CELEBAMASK_HQ, None)
        shards = [
            (split, [{"id": name, "hash": value, "agreements": {}, "is_mirrored": False}])
            for split, name, value in random.Random(seed).sample(facts, len(facts))
        ]
        found.append(remarks_of(checks, shards, []))
    assert len(found[0]) == 42 - 7 + 2 and all(other == found[0] for other in found)


def test_a_copy_has_the_hash_of_its_original_and_another_face_does_not():
    images = [render_face(1, index, 256).image for index in range(60)]
    hashes = [image_hash(encoded(image), (256, 256)) for image in images]
    assert len(set(hashes)) == len(images)
    agree = [
        image_hash(encoded(image, quality=80), (256, 256)) == value for image, value in zip(images, hashes, strict=True)
    ]
    assert sum(agree) >= 0.8 * len(images)


def test_an_image_without_contrast_equals_no_other():
    assert image_hash(encoded(np.full((64, 64, 3), 90, np.uint8)), (64, 64)) is None


def test_images_without_labels_that_occur_twice_are_found_too(tmp_path):
    face = render_face(0, 0, 64)
    samples = [write(tmp_path, name, face.image, face.label)._replace(label=()) for name in ("a", "b")]
    batch = rows.pack_samples(samples, None)
    found = remarks_of(SetChecks(None, None), [("train", batch.facts)], batch.remarks)
    assert [row["label"] for row in batch.rows] == [None, None]
    assert [(remark["source"], remark["reason"]) for remark in found] == [("b", "duplicate_image")]
