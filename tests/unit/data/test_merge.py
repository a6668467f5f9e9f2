"""What `merge` decides without a cluster: taxonomies, prefixes, and the rows of a file."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ray_job
from dmlcsr.taxonomy import HELEN, LAPA
from pipelines.config.commands import MergeConfig
from pipelines.data import dataset, merge, packing, row_groups
from pipelines.data.dataset import Manifest, Row
from pipelines.errors import UserError

OTHER_PAIRS = tuple(pair._replace(left=pair.right, right=pair.left) for pair in LAPA.pairs)
SWAPPED = replace(LAPA, name="swapped", pairs=OTHER_PAIRS)
FEWER = replace(LAPA, name="fewer", classes=LAPA.classes[:-1], palette=LAPA.palette[:-1], relations=HELEN.relations)


def common(*taxonomies):
    uris = [f"/data/{number}" for number in range(len(taxonomies))]
    return merge.common_taxonomy(uris, [Manifest(label_taxonomy=each, splits={}, digest="d") for each in taxonomies])


def test_one_taxonomy_is_that_of_all_whatever_its_name():
    assert common(LAPA, replace(LAPA, name="ours"), LAPA) == LAPA
    assert common(None, None) is None


@pytest.mark.parametrize("order", [(LAPA, HELEN, LAPA), (HELEN, LAPA)])
def test_sides_that_one_does_not_know_are_a_warning_and_unknown_in_the_result(order, caplog):
    assert common(*order) == HELEN
    assert "does not say which part of a pair is on the viewer's left" in caplog.text


@pytest.mark.parametrize(
    ("taxonomies", "message"),
    [
        ((LAPA, LAPA, None), "the faces of /data/2 have no labels, others have; label them with `relabel` first"),
        ((None, LAPA), "the faces of /data/0 have no labels, others have; label them with `relabel` first"),
        (
            (LAPA, FEWER),
            "/data/0 (lapa) and /data/1 (fewer) have different classes; ingest one of them again",
        ),
        ((HELEN, LAPA, SWAPPED), "/data/1 (lapa) and /data/2 (swapped) have different sides of left and right; ingest"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused(taxonomies, message):
    with pytest.raises(UserError) as error:
        common(*taxonomies)
    assert str(error.value).startswith(message)


@given(st.lists(st.sampled_from(["/a/lapa", "/b/lapa", "s3://c/lapa-2", "/d/x", "/e/lapa-2"]), max_size=6))
def test_each_data_set_has_a_prefix_of_its_own(uris):
    found = merge.prefixes(uris)
    assert len(set(found)) == len(uris)
    assert all(name.startswith(uri.rpartition("/")[2]) for name, uri in zip(found, uris, strict=True))


def test_equal_names_are_numbered_in_their_order():
    assert merge.prefixes(["/a/lapa", "/b/helen", "s3://c/d/lapa"]) == ["lapa", "helen", "lapa-2"]


def make(out, split_rows, **more):
    """A data set with rows of these ids, two in a row group, three files if there are enough."""
    files = {}
    for split, names in split_rows.items():
        rows = [Row(id=name, image=f"{out}{name}".encode(), label=b"x", height=1, width=1, meta="{}") for name in names]
        parts = [rows[start : start + 3] for start in range(0, len(rows), 3)]
        files[split] = [
            dataset.write_file(out, f"{split}/part-{number:05d}", part, 2) for number, part in enumerate(parts)
        ]
    return packing.write_manifest(out, LAPA, files, [], {"command": "ingest"}, rows_per_group=2, **more)


def test_each_file_of_each_data_set_is_one_shard_and_keeps_its_rows(tmp_path):
    uris = [str(tmp_path / name) for name in ("a", "b")]
    manifests = [make(uris[0], {"train": "01234567", "val": "8"}), make(uris[1], {"train": "0", "test": "123"})]
    shards = merge.make_shards(manifests)
    assert [shard.name for shard in shards] == [
        *(f"train/part-{n:05d}" for n in range(4)),
        "val/part-00000",
        "test/part-00000",
    ]
    found = []
    for shard in shards:
        number, index, _ = shard.work
        source = row_groups.open_split(uris[number], manifests[number], shard.split)
        found += [(shard.split, row["id"], row["image"]) for row in merge.usable_rows(source, index, "ab"[number])]
    expected = [("train", "a", "01234567"), ("train", "b", "0"), ("val", "a", "8"), ("test", "b", "123")]
    assert found == [
        (split, f"{name}/{id}", f"{tmp_path}/{name}{id}".encode()) for split, name, ids in expected for id in ids
    ]


@pytest.mark.parametrize("names", ["a", "a,a"])
def test_a_data_set_cannot_be_merged_alone_or_with_itself(tmp_path, names, capsys):
    make(str(tmp_path / "a"), {"train": "0123"})
    given = ",".join(f"{tmp_path}/{name}" for name in names.split(","))
    assert ray_job.main(["merge", "--data", given, "--out", f"{tmp_path}/out"]) == 2
    assert capsys.readouterr().err == f"error: --data must name two or more different data sets, not {given}\n"
    assert not (tmp_path / "out" / "claim.json").exists()


def test_plan_says_how_much_is_read(tmp_path, capsys):
    for name in ("a", "b"):
        make(str(tmp_path / name), {"train": "0123"})
    assert ray_job.main(["plan", "merge", "--data", f"{tmp_path}/a,{tmp_path}/b", "--out", f"{tmp_path}/c"]) == 0
    assert "rows" in (shown := capsys.readouterr().out) and "8" in shown
    assert MergeConfig(data=f"{tmp_path}/a,{tmp_path}/b", out="/out").data == (f"{tmp_path}/a", f"{tmp_path}/b")
