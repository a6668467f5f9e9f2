"""Listings that are too long for memory: names in sorted runs, joined by buckets. No result depends on their number."""

import json
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.base import SPLITS
from pipelines.config.commands import IngestConfig
from pipelines.ingest import hashes, names, pairing, splits
from pipelines.ingest.listing import list_source
from tests.support.raw_trees import tree, whole

STEMS = st.sampled_from(
    ["a", "b", "c_image", "a_mask", "b_seg", "a_mask_mask", "a_ma", "a_gt", "é", "d_label", "_mask"]
)
FILES = st.tuples(
    st.sampled_from(["", "train/", "valid/", "images/", "labels/", "train/images/", "train/labels/", "other/x/"]),
    STEMS,
    st.sampled_from([".jpg", ".png", ".JPG", ".txt"]),
).map("".join)
CELEBA = st.tuples(
    st.sampled_from(["CelebA-HQ-img/0", "CelebA-HQ-img/1", "CelebA-HQ-img/12"])
    | st.tuples(
        st.sampled_from(["CelebAMask-HQ-mask-anno/0/0000", "CelebAMask-HQ-mask-anno/1/0000"]),
        st.sampled_from(["0_skin", "1_skin", "1_nose", "2_nose", "1_moustache"]),
    ).map("".join),
    st.sampled_from([".jpg", ".png"]),
).map("".join)


def list_with(config, folder, bucket_names, run_names):
    """The listing with so many names in a bucket and in a run, or the error; `folder` is the place of its tables."""
    with patch.object(names, "BUCKET_NAMES", bucket_names), patch.object(names, "RUN_NAMES", run_names):
        found = whole(list_source(config, f"{folder}/{bucket_names}-{run_names}"))
    rejected = sorted(json.dumps(problem) for problem in found.rejected)
    return found.samples, rejected, found.ignored


@given(data=st.data(), kind=st.sampled_from(["pairs", "images", "face_synthetics", "celebamask_hq"]))
def test_samples_splits_order_and_problems_do_not_depend_on_the_number_of_buckets(tmp_path_factory, data, kind):
    folder = tmp_path_factory.mktemp("tree")
    sources = data.draw(st.sampled_from([["one"], ["one", "two"]]))
    good = {"celebamask_hq": ["CelebA-HQ-img/9.jpg", "CelebAMask-HQ-mask-anno/0/00009_skin.png"]}
    pair = ["x.jpg", "x_seg.png"]
    for source in sources:
        files = data.draw(st.sets(CELEBA if kind == "celebamask_hq" else FILES, max_size=16))
        tree(folder / source, *good.get(kind, pair), *files)
        if kind == "celebamask_hq":
            (folder / source / splits.CELEBA_MAPPING).write_text("idx orig_idx orig_file\n0 1 2.jpg\n9 162771 3.jpg\n")
        elif data.draw(st.booleans()):
            (folder / source / "train_list.txt").write_text("images/a.jpg labels/a.png\nx.jpg x_seg.png\n")
    options = {"taxonomy": "lapa", "label_suffix": data.draw(st.sampled_from([None, "_gt", "sk"]))}
    if data.draw(st.booleans()):
        (folder / "splits.txt").write_text("a train\none/b val\nx test\ntrain/a test\n9 val\n00009 val\n")
        options["split_file"] = f"{folder}/splits.txt"
    if kind not in ("pairs",):
        del options["taxonomy"]
    uris = ",".join(f"{folder}/{source}" for source in sources)
    config = IngestConfig(format=kind, source=uris, out="/out", seed=data.draw(st.integers(0, 3)), **options)
    expected = list_with(config, folder, 1000, 1000)
    sizes = data.draw(st.tuples(st.integers(1, 8), st.integers(0, 8)))
    assert list_with(config, folder, *sizes) == expected


@given(given=st.text("_amsk", min_size=1, max_size=5), name=st.text("_amsk", max_size=6))
def test_partners_are_in_one_group_whatever_the_suffixes(given, name):
    suffixes = pairing.suffixes_of(given)
    for suffix in suffixes:
        for image in (name, name + pairing.IMAGE_SUFFIX):
            assert pairing.group_of(f"f/{name}{suffix}", suffixes) == pairing.group_of(f"f/{image}", suffixes)


def test_samples_are_in_the_order_of_the_hashes_of_their_ids(tmp_path):
    tree(tmp_path, *(f"{n}.jpg" for n in range(50)))
    config = IngestConfig(format="images", source=str(tmp_path), out="/out", seed=3, splits={"train": 1})
    found, _, _ = list_with(config, f"{tmp_path}-tables", 7, 11)
    assert [sample.id for sample in found["train"]] == sorted(map(str, range(50)), key=lambda n: splits.rank(n, 3))


def test_parts_of_a_split_are_those_of_the_whole(tmp_path):
    tree(tmp_path, *(f"{n}.jpg" for n in range(40)))
    config = IngestConfig(format="images", source=str(tmp_path), out="/out")
    with patch.object(names, "BUCKET_NAMES", 6):
        samples = list_source(config, f"{tmp_path}-tables").samples
    assert sum(samples.num_rows().values()) == 40
    for split in SPLITS:
        count = samples.num_rows()[split]
        every = samples.read(split, 0, count)
        for start in range(0, count, 5):
            assert samples.read(split, start, min(start + 5, count)) == every[start : start + 5]


@given(values=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=40), cut=st.integers(0, 40))
def test_places_and_repetitions_are_found_without_sorting_all(values, cut):
    parts = [np.array(part, np.uint64) for part in (values[:cut], values[cut:])]
    ordered = sorted(values)
    places = range(len(values))
    assert hashes.kth_smallest(lambda: parts, places) == tuple(ordered)
    assert hashes.kth_smallest(lambda: parts, [len(values)]) == (2**64 - 1,)
    with patch.object(hashes, "_PASS_HASHES", 3):
        found = hashes.repeated(lambda: parts, len(values))
    assert found == sorted({value for value in values if values.count(value) > 1})


@pytest.mark.parametrize("suffix", ["_gt", "sk", None])
def test_a_group_is_the_name_without_suffixes_or_the_folder(suffix):
    group = pairing.group_of("train/a_mask", pairing.suffixes_of(suffix))
    assert group == ("train" if suffix == "sk" else "train/a")
