"""Counts of hand-made rows, and that the counts of files add up to those of the set."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.taxonomy import IGNORE, Taxonomy
from pipelines.data import dataset, decode_tasks, packing
from pipelines.data.dataset import Row
from pipelines.data.images import encode_png
from pipelines.data.order import Groups
from pipelines.data.packing import SampleProblem
from pipelines.inspection import scan, sections
from pipelines.inspection.counts import GRID, SetCounts, Unusual, ratio_bins, side_bins
from pipelines.report import page
from tests.support.data_sets import split_files

HOSTILE = '"><script>alert(1)</script>'
TAXONOMY = Taxonomy("own", ("background", HOSTILE, "absent"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))


def label(top, bottom, side=GRID):
    """A square label whose upper and lower half have these ids."""
    return np.repeat(np.array([[top], [bottom]], np.uint8), side // 2, 0).repeat(side, 1)


def row(name, encoded, width=64, height=64):
    image = encode_png(np.full((height, width, 3), 90, np.uint8))
    return Row(id=name, image=image, label=encoded, height=height, width=width, meta="{}")


def written(tmp_path, rows, taxonomy=TAXONOMY, rows_per_group=2):
    out = str(tmp_path / "data")
    file = dataset.write_file(out, "train/part-00000", rows, rows_per_group)
    manifest = packing.write_manifest(out, taxonomy, {"train": [file]}, [], {}, rows_per_group=rows_per_group)
    return manifest, scan.open_sources(out, manifest)


SIZES = {"train": 7, "val": 3, "test": 1}
ROWS = [
    row("a", encode_png(label(0, 1))),
    row("b", encode_png(label(0, 0)), 128, 128),
    row("c", encode_png(label(1, IGNORE)), 128, 64),
    row("d", None),
    row("e", b"no image"),
    row("f", encode_png(label(0, 7))),
]
ROWS[2]["label"] = encode_png(label(1, IGNORE).repeat(2, 1))


def count(sources, class_map=None):
    source = sources["train"]
    return scan.count_groups(source, "train", range(source.groups.num_groups), class_map)


def test_pixels_images_sizes_and_problems_are_those_of_the_rows(tmp_path):
    counts = count(written(tmp_path, ROWS)[1])
    half = GRID * GRID // 2
    assert counts.pixels.tolist() == [3 * half, half + 2 * half, 0, 2 * half]
    assert counts.images.tolist() == [2, 2, 0, 1]
    assert (counts.num_labels, counts.num_unlabelled) == (3, 1)
    assert dict(counts.problems) == {"undecodable": 1, "unknown_id": 1}
    assert [(found["source"], found["reason"]) for found in counts.examples] == [
        ("e", "undecodable"), ("f", "unknown_id"),
    ]  # fmt: skip
    assert side_bins(counts.sides) == {"64": 4, "91": 0, "128": 2}
    assert ratio_bins(counts.ratios) == {"1.00": 5, "1.19": 0, "1.41": 0, "1.68": 0, "2.00": 1}
    assert (counts.smallest, counts.largest) == ((64, 64), (128, 128))


def test_the_places_of_a_class_are_where_labels_have_it(tmp_path):
    places = count(written(tmp_path, ROWS)[1]).places.reshape(3, GRID, GRID)
    assert (places[0, : GRID // 2] == 2).all() and (places[0, GRID // 2 :] == 1).all()
    assert (places[1] == 1).all() and not places[2].any()


def test_the_label_that_differs_from_all_others_is_the_most_unusual(tmp_path):
    rows = [row(f"row/{number}", encode_png(label(0, 1))) for number in range(20)]
    rows[13] = row("row/13", encode_png(label(1, 0)))
    _, sources = written(tmp_path, rows)
    found = count(sources, count(sources).class_map()).unusual
    assert len(found) == 12 and found[0].id == "row/13"
    assert -found[0].minus_surprise > 1 > -found[1].minus_surprise
    assert (found[0].file, found[0].group, found[0].row) == (0, 6, 1)


def test_a_set_without_labels_has_sizes_and_pictures_and_no_classes(tmp_path):
    manifest, sources = written(tmp_path, [row("a", None), row("b", None)], None)
    counts = count(sources)
    assert counts.num_unlabelled == 2 and counts.sides.sum() == 2
    assert sections.classes(None, counts) == sections.maps(None, counts) == ""
    assert "none, the faces have no labels" in sections.rows(manifest, counts)
    name, picture = scan.draw_row(sources["train"], scan.random_picks(sources, 5, 0)[0].place)
    assert name == "a" and picture is not None


def test_names_of_classes_and_rows_never_become_markup(tmp_path):
    manifest, sources = written(tmp_path, [row(HOSTILE, encode_png(label(0, 1))), row("b", b"")])
    counts = count(sources, count(sources).class_map())
    drawn = [
        scan.Drawn(*scan.draw_row(sources["train"], pick.place)[:1], pick.split, None)
        for pick in scan.random_picks(sources, 2, 0)
    ]
    body = sections.rows(manifest, counts) + sections.classes(TAXONOMY, counts) + sections.maps(TAXONOMY, counts)
    body += sections.random_rows(TAXONOMY, drawn, 0) + sections.unusual(TAXONOMY, drawn[:1], counts)
    body += sections.problems({HOSTILE: 1}, {}, {"Remarks": [SampleProblem(source=HOSTILE, reason=HOSTILE, detail="")]})
    assert page.page("t", "l", [("a", body)]).decode().count("<script>") == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_random_rows_are_different_rows_of_all_splits(tmp_path, seed):
    out = str(tmp_path / "data")
    names = {split: [f"{split}/{n}" for n in range(size)] for split, size in SIZES.items()}
    files = {
        split: [dataset.write_file(out, f"{split}/part-00000", [row(name, None) for name in some], 2)]
        for split, some in names.items()
    }
    manifest = packing.write_manifest(out, None, files, [], {}, rows_per_group=2)
    sources = scan.open_sources(out, manifest)
    drawn = [scan.draw_row(sources[pick.split], pick.place)[0] for pick in scan.random_picks(sources, 99, seed)]
    assert drawn == [name for some in names.values() for name in some]
    assert len(set(scan.random_picks(sources, 5, seed))) == 5


parts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 300), st.integers(1, 300), st.integers(0, 9)), min_size=1, max_size=12
)


@given(parts, st.integers(0, 12))
def test_counts_of_parts_add_up_to_those_of_the_whole(rows, cut):
    def counted(some):
        counts = SetCounts.zeros(2)
        for kind, width, height, name in some:
            counts.add_image(width, height)
            if kind == 3:
                counts.add_problem(SampleProblem(source=str(name), reason="undecodable", detail=""))
                continue
            counts.add_label(label(*((0, 1), (1, 0), (IGNORE, 1))[kind], side=8))
            counts.add_unusual(Unusual(-float(name), "train", str(name), 0, 0, width))
        return counts

    total = counted(rows[:cut])
    total += SetCounts.from_dict(json.loads(json.dumps(counted(rows[cut:]).to_dict())))
    assert json.dumps(total.to_dict()) == json.dumps(counted(rows).to_dict())


def test_every_row_group_is_counted_in_one_of_a_bounded_number_of_tasks(monkeypatch):
    monkeypatch.setattr(decode_tasks, "MAX_TASKS", 4)
    rows = {"train": [5, 2, 9, 1, 1, 4, 7], "val": [3, 3]}
    sources = {split: split_files(map(str, found), found, Groups(np.array(found), 2)) for split, found in rows.items()}
    shards = scan._files(sources)
    assert len(shards) <= 4 + len(sources)
    for split, source in sources.items():
        groups = [number for shard in shards if shard.split == split for number in range(*shard.work)]
        assert groups == list(range(source.groups.num_groups))
