"""Versions that refer to the files of other data sets: what is read, and what is said if these have gone or changed."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_job
from pipelines.config.base import SPLITS
from pipelines.data import copy, dataset, merge, packing, row_groups
from pipelines.data.packing import Shard
from pipelines.data.versions import QUARANTINED, with_previous_labels
from pipelines.errors import UserError
from tests.support.data_sets import rows_of
from tests.support.label_versions import ROWS_PER_GROUP, write_base, write_version

SIZES = {"train": (5, 2, 1), "val": (3,), "test": (1,)}
IDS = [
    f"{split}/{file}/{row}" for split, sizes in SIZES.items() for file, size in enumerate(sizes) for row in range(size)
]
relabelling = st.tuples(st.sets(st.sampled_from(SPLITS), min_size=1), st.sets(st.sampled_from(IDS), max_size=4))


def chain(folder, relabellings):
    """The folders of a data set and of versions, each of the one before; a relabelling is (splits, bad ids)."""
    uris = [f"{folder}/v0"]
    write_base(uris[0], SIZES)
    for number, (splits, bad) in enumerate(relabellings, start=1):
        uris.append(f"{folder}/v{number}")
        write_version(uris[-1], uris[-2], splits, bad)
    return uris


def copied(out, uri, split):
    """The rows of a split after each of its files was written as `copy` writes it."""
    manifest = dataset.read_manifest(uri)
    source = row_groups.open_split(uri, manifest, split)
    files = [copy.copied_file(out, Shard(split, n, []), source, ROWS_PER_GROUP) for n in range(len(source.files))]
    packing.write_manifest(out, manifest.taxonomy, {split: files}, [], {}, rows_per_group=ROWS_PER_GROUP)
    return rows_of(out, split)


@given(relabellings=st.lists(relabelling, max_size=3))
def test_a_version_of_versions_has_the_rows_of_its_base_in_their_places(tmp_path_factory, relabellings):
    uris = chain(tmp_path_factory.mktemp("chain"), relabellings)
    manifest = dataset.read_manifest(uris[-1])
    for split in SPLITS:
        last = max((n for n, (splits, _) in enumerate(relabellings, start=1) if split in splits), default=0)
        bad = relabellings[last - 1][1] if last else set()
        rows, originals = rows_of(uris[-1], split), rows_of(uris[0], split)
        for row, original in zip(rows, originals, strict=True):
            assert all(row[name] == original[name] for name in ("id", "image", "height", "width", "meta"))
            label = f"{row['id']} of {uris[last]}".encode() if last else original["label"]
            assert row["label"] == (None if row["id"] in bad else label)
        assert manifest.num_rows()[split] == sum(row["label"] is not None for row in rows)
        assert copied(f"{uris[-1]}-{split}", uris[-1], split) == rows if manifest.num_rows()[split] else True


def test_a_version_names_files_directly_and_only_those_that_it_needs(tmp_path):
    uris = chain(tmp_path, [({"train"}, ()), ({"train"}, ()), ({"train"}, ())])
    manifest = dataset.read_manifest(uris[-1])
    assert [base.uri for base in manifest.bases] == [uris[0], uris[2]]
    assert manifest.inputs(uris[-1]) == [f"{uris[3]}/dataset.json", f"{uris[0]}/dataset.json"]
    shutil.rmtree(uris[1])
    shutil.rmtree(uris[2])
    rows = rows_of(uris[-1])
    assert [row["id"] for row in rows] == [row["id"] for row in rows_of(uris[0])], "labels before are no part of it"


def test_the_labels_before_are_those_of_the_version_before(tmp_path):
    uris = chain(tmp_path, [({"train"}, {"train/0/1"}), ({"train"}, ())])
    for uri, before in zip(uris[1:], uris, strict=False):
        manifest = with_previous_labels(dataset.read_manifest(uri))
        source = row_groups.open_split(uri, manifest, "train")
        rows = [row for file in range(3) for row in row_groups.rows_of_file(source, file, ["id", "image", "label"])]
        assert rows == [{name: row[name] for name in ("id", "image", "label")} for row in rows_of(before)]


def test_bases_that_have_moved_are_found_by_their_digest(tmp_path):
    uris = chain(tmp_path, [({"train"}, ()), ({"val"}, ())])
    before = {split: rows_of(uris[2], split) for split in SPLITS}
    for name in ("v0", "v1"):
        shutil.move(tmp_path / name, tmp_path / f"moved-{name}")
    moved = [f"{tmp_path}/moved-v1", f"{tmp_path}/moved-v0"]
    with pytest.raises(UserError, match=r"v2 refers to files of \S+/v0, where no data set is; if it has moved, name"):
        dataset.read_manifest(uris[2])
    with pytest.raises(UserError, match=r"v2 refers to files of \S+/v1, where no data set is"):
        dataset.read_manifest(uris[2], moved[1:])
    assert {split: rows_of(uris[2], split, moved) for split in SPLITS} == before
    write_version(f"{tmp_path}/v3", uris[2], {"test"}, base=moved)
    assert {split: rows_of(f"{tmp_path}/v3", split) for split in ("train", "val")} == {
        split: before[split] for split in ("train", "val")
    }, "a version of it refers to where they are now"


def test_another_data_set_in_the_place_of_a_base_is_refused(tmp_path):
    uris = chain(tmp_path, [({"train"}, ())])
    shutil.rmtree(uris[0])
    write_base(uris[0], {"train": (1, 2)})
    with pytest.raises(UserError, match=r"v1 refers to files of \S+/v0, which now holds another data set; if the one"):
        dataset.read_manifest(uris[1])


@pytest.mark.parametrize(
    ("base", "message"),
    [("other", "--base {0}/other is none of the data sets that --data refers to; omit it"),
     ("nothing", "--base {0}/nothing is not a data set: it has no dataset.json")],
)  # fmt: skip
def test_a_base_that_does_not_belong_to_the_data_is_one_sentence(tmp_path, capsys, base, message):
    uris = chain(tmp_path, [({"train"}, ())])
    write_base(f"{tmp_path}/other", {"train": (1, 2)})
    argv = ["plan", "inspect", "--data", uris[1], "--base", f"{tmp_path}/{base}", "--out", f"{tmp_path}/page.html"]
    assert ray_job.main([*argv, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == [message.format(tmp_path)]


def test_bases_of_several_data_sets_are_given_together(tmp_path):
    uris = [chain(tmp_path / name, [({"train"}, ())])[1] for name in ("a", "b")]
    for name in ("a", "b"):
        shutil.move(tmp_path / name / "v0", tmp_path / name / "moved")
    found = dataset.read_manifests(uris, [f"{tmp_path}/{name}/moved" for name in ("b", "a")])
    assert [manifest.bases[0].uri for manifest in found] == [f"{tmp_path}/a/moved", f"{tmp_path}/b/moved"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, r"v1/train/part-00000\S+ and \S+v0/train/part-00001\S+ hold different rows; make the version again"),
        (2, r"cannot read \S+v0/train/part-00002\S+ row group 0 has fewer rows"),
    ],
)
def test_files_of_labels_and_images_that_hold_different_rows_are_one_sentence(tmp_path, number, message):
    uris = chain(tmp_path, [({"train"}, ())])
    manifest = dataset.read_manifest(uris[1])
    files = manifest.splits["train"]
    wrong = files[0].model_copy(update={"images": files[number].images})
    source = row_groups.open_split(uris[1], manifest.model_copy(update={"splits": {"train": (wrong,)}}), "train")
    with pytest.raises(UserError, match=message):
        list(row_groups.rows_of_file(source, 0, ("id", "image", "label")))


def test_merge_leaves_out_what_relabel_could_not_use(tmp_path):
    bad = {"train/0/0", "train/1/0", "train/1/1"}
    uris = chain(tmp_path, [({"train"}, bad)])
    source = row_groups.open_split(uris[1], dataset.read_manifest(uris[1]), "train")
    rows = [row for file in range(3) for row in merge.usable_rows(source, file, "a")]
    assert [row["id"] for row in rows] == [f"a/{name}" for name in IDS[:8] if name not in bad]
    assert all(set(row) == set(dataset.SCHEMA.names) for row in rows)
    assert sum(row["rule"] == QUARANTINED for row in rows_of(uris[1])) == 3


def test_equal_images_and_labels_have_equal_digests_wherever_the_base_is(tmp_path):
    uris = chain(tmp_path, [({"train"}, ())])
    shutil.copytree(uris[0], tmp_path / "elsewhere")
    again = write_version(f"{tmp_path}/again", f"{tmp_path}/elsewhere", {"val"})
    assert again.digest == write_version(f"{tmp_path}/again", uris[0], {"val"}).digest
    (file,) = again.splits["val"]
    assert file.images is not None
    other = file.model_copy(update={"images": file.images.model_copy(update={"sha256": "other"})})
    assert dataset.digest_of({"val": [other]}) != dataset.digest_of({"val": [file]})
