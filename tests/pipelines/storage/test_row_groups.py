"""The requests to object storage that row groups of a data set cost."""

import pytest

from cluster.object_store import client, object_store
from dmlcsr.taxonomy import LAPA
from pipelines.data import dataset, packing, row_groups
from pipelines.data.dataset import Row


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("groups") / "objects") as running:
        client(running.environment).mkdir("groups")
        yield running


def make_source(uri):
    """Two files of two row groups."""
    rows = [Row(id=f"{number}", image=b"i" * 9, label=b"l", height=1, width=1, meta="{}") for number in range(8)]
    files = [dataset.write_file(uri, f"train/part-{file}", rows[4 * file : 4 * file + 4], 2) for file in range(2)]
    manifest = packing.write_manifest(uri, LAPA, {"train": files}, [], {}, rows_per_group=2)
    return row_groups.open_split(uri, manifest, "train")


def requests_of(store, source, group):
    store.requests.clear()
    rows = row_groups.read_rows(source, [source.groups.whole(group)], ("id", "image", "label"))
    assert [row["id"] for row in rows] == [str(2 * group), str(2 * group + 1)]
    return [method for method, _ in store.requests]


def test_a_row_group_is_one_request_after_the_footer_of_its_file(store):
    source = make_source("s3://groups/counted")
    row_groups.forget_footers()
    assert [requests_of(store, source, group) for group in range(4)] == [["GET"] * 2, ["GET"], ["GET"] * 2, ["GET"]]


def test_few_footers_are_kept(store, monkeypatch):
    source = make_source("s3://groups/kept")
    row_groups.forget_footers()
    monkeypatch.setattr(row_groups, "_FOOTER_BYTES", 1)
    assert [len(requests_of(store, source, group)) for group in (0, 1, 2, 3, 0)] == [2, 1, 2, 1, 2]


def test_a_size_that_is_not_that_of_the_file_is_one_sentence(store):
    source = make_source("s3://groups/damaged")
    source.file_bytes[:] -= 7
    row_groups.forget_footers()
    with pytest.raises(Exception, match=r"^cannot read s3://groups/damaged/train/part-0"):
        row_groups.read_rows(source, [source.groups.whole(0)], ("id",))
