"""What a shard's receipt is good for, and what names the contents of a data set; without Ray."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pipelines import storage
from pipelines.data import dataset, packing, row_groups
from pipelines.data.dataset import DataFile, Row
from pipelines.data.packing import Shard


def asked(out, items, answer):
    """The answer to a shard of these items, and whether it is of an earlier attempt; `answer` is what work says."""
    told = packing.run_once(str(out), {"shard": json.dumps(Shard("train", 0, items))}, lambda shard: {"is": answer})
    return json.loads(told["answer"])["is"], told["is_kept"]


def test_a_shard_is_done_once_and_again_where_its_items_changed(tmp_path):
    assert asked(tmp_path, ["a", "b"], 1) == (1, False)
    assert asked(tmp_path, ["a", "b"], 2) == (1, True)
    assert asked(tmp_path, ["a", "c"], 3) == (3, False)
    assert asked(tmp_path, ["a", "c"], 4) == (3, True)


def test_receipts_of_one_pass_are_not_those_of_another(tmp_path):
    row = {"shard": json.dumps(Shard("train", 0, []))}
    packing.run_once(str(tmp_path), row, lambda _: {}, f"{dataset.RECEIPTS}/other")
    assert asked(tmp_path, [], 1) == (1, False)
    assert len(storage.list_files(str(tmp_path / dataset.RECEIPTS))) == 2


PATHS = ["train/a.parquet", "train/b.parquet", "val/a.parquet"]
contents = st.dictionaries(st.sampled_from(PATHS), st.sampled_from("01"))


@given(contents, contents)
def test_equal_digests_mean_equal_names_and_contents(one, other):
    splits = [
        {"train": [DataFile(path=path, num_rows=1, num_bytes=1, sha256=digest) for path, digest in each.items()]}
        for each in (one, other)
    ]
    assert (dataset.digest_of(splits[0]) == dataset.digest_of(splits[1])) == (one == other)


def write(out, content):
    row = Row(id="a", image=content, label=None, height=1, width=1, meta="{}")
    return dataset.write_file(out, "train/part-00000", [row])


@given(st.binary(), st.binary())
def test_a_late_attempt_cannot_change_a_file_that_is_there(tmp_path_factory, committed, late):
    out = str(tmp_path_factory.mktemp("set"))
    file = write(out, committed)
    before = storage.read_bytes(f"{out}/{file.path}")
    other = write(out, late)
    assert (other.path == file.path) == (late == committed)
    assert storage.read_bytes(f"{out}/{file.path}") == before
    assert file.path == f"train/part-00000-{file.sha256[:12]}.parquet"


def test_a_file_that_the_manifest_does_not_name_belongs_to_no_data_set(tmp_path):
    out = str(tmp_path)
    file = write(out, b"committed")
    manifest = packing.write_manifest(out, None, {"train": [file]}, [], {})
    write(out, b"late")
    assert dataset.read_manifest(out).digest == manifest.digest and manifest.num_rows() == {"train": 1}
    assert row_groups.open_split(out, manifest, "train").files[0] == f"{out}/{file.path}"
    assert len(storage.list_files(f"{out}/train")) == 2
