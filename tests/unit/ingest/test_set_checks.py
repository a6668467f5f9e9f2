"""What only the whole set shows: sides of another convention, ids in another order."""

import json

import cv2
import numpy as np
import pytest

from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ, IGNORE
from pipelines.config.commands import IngestConfig
from pipelines.data.images import decode_label
from pipelines.errors import UserError
from pipelines.ingest import label_rules, rows
from pipelines.ingest.raw_files import RawSample
from pipelines.ingest.set_checks import SetChecks
from tests.support.set_checks import remarks_of

NUM_FACES = 24


def in_order(name, label):
    inverse = np.full(256, IGNORE, np.uint8)
    for source, part in CELEBAMASK_HQ.mapping(name).ids:
        inverse[part] = source
    return inverse[label]


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Returns the samples of faces whose labels were changed by a function."""
    folder = tmp_path_factory.mktemp("set")
    faces = [render_face(0, index, 64) for index in range(NUM_FACES)]

    def make(name, change):
        found = []
        for index, face in enumerate(faces):
            image, label = folder / f"{index}.png", folder / f"{name}-{index}.png"
            cv2.imwrite(str(image), face.image)
            cv2.imwrite(str(label), np.ascontiguousarray(change(index, face.label)))
            found.append(RawSample(f"train/{index}", str(image), (("label", str(label)),)))
        return found

    return make


def packed(samples, **options):
    """What is packed of the samples, and the remarks about rows and set."""
    config = IngestConfig(format="pairs", taxonomy="celebamask_hq", source="/nowhere", out="/nowhere", **options)
    rules = label_rules.label_reader(config)
    batch = rows.pack_samples(samples, rules)
    checks = SetChecks(rules.taxonomy, config.mapping)
    found = remarks_of(checks, [("train", batch.facts)], batch.remarks)
    return batch, [(remark["source"], remark["reason"], remark["detail"]) for remark in found]


def test_right_labels_have_no_remark(samples):
    batch, remarks = packed(samples("right", lambda _, label: label))
    assert len(batch.rows) == NUM_FACES and remarks == []


def test_single_mirrored_rows_are_listed(samples):
    swap = CELEBAMASK_HQ.flip_lut()
    _, remarks = packed(samples("few", lambda index, label: swap[label] if index in (3, 7) else label))
    assert [remark[:2] for remark in remarks] == [("train/3", "looks_mirrored"), ("train/7", "looks_mirrored")]


def test_a_set_of_the_other_convention_is_one_sentence_not_thousands(samples, caplog):
    swap = CELEBAMASK_HQ.flip_lut()
    _, remarks = packed(samples("all", lambda _, label: swap[label]))
    assert [remark[:2] for remark in remarks] == [("(all rows)", "other_sides")]
    assert "follows the other convention" in caplog.text


@pytest.mark.parametrize("order", ["bisenet", "farl"])
def test_ids_of_another_public_order_are_named_and_the_mapping_mends_them(samples, caplog, order):
    foreign = samples(order, lambda _, label: in_order(order, label))
    _, remarks = packed(foreign)
    assert ("(all rows)", "other_order") in [remark[:2] for remark in remarks]
    assert f"with --mapping {order} only" in caplog.text
    batch, remarks = packed(foreign, mapping=order)
    assert remarks == []
    for index, row in enumerate(batch.rows):
        assert np.array_equal(decode_label(row["label"]), render_face(0, index, 64).label)


def test_a_mapping_of_labels_that_need_none_is_noticed_too(samples, caplog):
    packed(samples("right", lambda _, label: label), mapping="farl")
    assert "with no --mapping only" in caplog.text


def test_ids_that_the_mapping_does_not_list_are_quarantined(samples):
    batch, _ = packed(samples("more", lambda index, label: label if index else label * 0 + 30), mapping="bisenet")
    assert [(bad["reason"], bad["detail"]) for bad in batch.rejected] == [
        ("unknown_id", "ids [30] are not in the mapping")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": "zhihu"}, "no mapping 'zhihu'; known are bisenet, farl"),
        ({"mapping": "farl", "colors": "/nowhere/labelmap.txt"}, "--colors and --mapping exclude each other"),
        ({"colors": "/nowhere/labelmap.txt"}, "does not exist"),
        ({"taxonomy": "lapa", "mapping": "celebamask_hq"}, "use --remap-to"),
    ],
)
def test_options_that_cannot_be_are_one_sentence(options, message):
    values = {"format": "pairs", "taxonomy": "celebamask_hq", "source": "/nowhere", "out": "/nowhere"} | options
    with pytest.raises(UserError, match=message):
        label_rules.label_reader(IngestConfig(**values))


def test_a_file_may_state_other_sides_than_a_published_format_has(tmp_path):
    content = CELEBAMASK_HQ.to_dict() | {"name": "swapped"}
    content["pairs"] = [
        {"viewer_left": pair["viewer_right"], "viewer_right": pair["viewer_left"]} for pair in content["pairs"]
    ]
    (tmp_path / "swapped.yaml").write_text(json.dumps(content))
    values = {"format": "celebamask_hq", "source": "/nowhere", "out": "/nowhere"}
    rules = label_rules.label_reader(IngestConfig(**values, taxonomy=str(tmp_path / "swapped.yaml")))
    assert rules.target.sides == tuple((right, left) for left, right in CELEBAMASK_HQ.sides)
    with pytest.raises(UserError, match="has the classes of celebamask_hq, not those of lapa; omit it"):
        label_rules.label_reader(IngestConfig(**values, taxonomy="lapa"))
