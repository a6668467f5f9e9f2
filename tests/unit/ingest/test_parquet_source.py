"""Parquet data sets of other origin: which files, columns, splits and ids are found, and which rows are read."""

import json
import tempfile

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA, remap_lut
from pipelines.config.base import SPLITS
from pipelines.config.commands import IngestConfig
from pipelines.data import images
from pipelines.errors import UserError
from pipelines.ingest import ingest, parquet_files
from pipelines.ingest.parquet_columns import find_columns
from pipelines.ingest.parquet_source import list_rows, split_of_file
from tests.support.raw_trees import whole

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(number):
    return cv2.imencode(".png", np.full((16, 16, 3), number, np.uint8))[1].tobytes()


def mask(number):
    return cv2.imencode(".png", np.full((16, 16), number % 11, np.uint8))[1].tobytes()


def as_structs(values, paths):
    return pa.array([{"bytes": value, "path": path} for value, path in zip(values, paths, strict=True)], STRUCT)


def faces(numbers, **columns):
    """A table in the way of Hugging Face. `columns` replace or add columns, None removes one."""
    pictures = as_structs(map(picture, numbers), [f"faces/{number:04d}.png" for number in numbers])
    labels = as_structs(map(mask, numbers), [None for _ in numbers])
    found = {"image": pictures, "label": labels} | columns
    return pa.table({name: values for name, values in found.items() if values is not None})


def write(path, table, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **({"row_group_size": 7} | options))


def config(source, **more):
    return IngestConfig(format="parquet", source=str(source), out=f"{source}/out", **more)


def packed(settings):
    """The rows by split and the rejected sources with reasons, packed as tasks do, with items that were JSON."""
    with tempfile.TemporaryDirectory() as folder:
        source = ingest.open_source(settings, folder)
        listing = whole(source.listing)
    rows, rejected = {split: [] for split in SPLITS}, list(listing.rejected)
    for split, items in listing.samples.items():
        for start in range(0, len(items), 5):
            found = source.make_rows(json.loads(json.dumps(items[start : start + 5])))
            rows[split] += found.rows
            rejected += found.rejected
    return rows, {problem["source"].rsplit("/", 1)[-1]: problem["reason"] for problem in rejected}


def ids(settings):
    return {split: [item.id for item in items] for split, items in list_all(settings).samples.items()}


def list_all(settings):
    """The rows of the sources, what is rejected, and what is ignored."""
    with tempfile.TemporaryDirectory() as folder:
        return whole(list_rows(settings, folder).listing)


@given(compression=st.sampled_from(["none", "zstd", "gzip"]), dictionary=st.booleans(), size=st.integers(1, 9))
def test_rows_have_the_bytes_of_the_source_in_its_order(tmp_path_factory, compression, dictionary, size):
    source = tmp_path_factory.mktemp("faces")
    options = {"compression": compression, "use_dictionary": dictionary, "row_group_size": size}
    write(source / "data/train-00000-of-00002.parquet", faces(range(12)), **options)
    write(source / "data/train-00001-of-00002.parquet", faces(range(12, 20)), **options)
    write(source / "data/validation-00000-of-00001.parquet", faces(range(20, 24)), **options)
    rows, rejected = packed(config(source, taxonomy="lapa"))
    assert not rejected and not rows["test"]
    for numbers, found in ((range(20), rows["train"]), (range(20, 24), rows["val"])):
        assert [row["id"] for row in found] == [f"{number:04d}" for number in numbers]
        assert [(row["image"], row["label"]) for row in found] == [(picture(n), mask(n)) for n in numbers]
    assert json.loads(rows["train"][13]["meta"])["source"].endswith("data/train-00001-of-00002.parquet#1")


def test_plain_dictionary_and_nested_columns_are_read(tmp_path):
    numbers = range(9)
    table = pa.table(
        {
            "face": pa.array([{"picture": picture(n), "about": {"key": f"face {n}"}} for n in numbers]),
            "classes": pa.array([mask(n) for n in numbers], pa.large_binary()).dictionary_encode(),
        }
    )
    write(tmp_path / "all.parquet", table)
    named = {"image": "face.picture", "label": "classes", "id": "face.about.key"}
    rows, rejected = packed(config(tmp_path, columns=named, taxonomy="lapa", splits={"test": 1}))
    assert not rejected and [row["id"] for row in rows["test"]] != []
    assert {row["id"]: (row["image"], row["label"]) for row in rows["test"]} == {
        f"face {n}": (picture(n), mask(n)) for n in numbers
    }


def test_labels_follow_the_rules_of_all_formats(tmp_path):
    write(tmp_path / "train.parquet", faces(range(11)))
    rows, rejected = packed(config(tmp_path, taxonomy="celebamask_hq", remap_to="lapa"))
    assert not rejected
    lut = remap_lut(CELEBAMASK_HQ, LAPA)
    assert [images.decode_label(row["label"])[0, 0] for row in rows["train"]] == lut[:11].tolist()


def test_bad_rows_are_quarantined_by_their_number_and_the_rest_is_packed(tmp_path):
    numbers = range(10)
    pictures, labels = [picture(n) for n in numbers], [mask(n) for n in numbers]
    pictures[0], pictures[2], pictures[8] = None, b"no image", pictures[8][:60]
    labels[3], labels[9] = None, cv2.imencode(".png", np.full((16, 16), 99, np.uint8))[1].tobytes()
    keys = [f"row {n}" for n in numbers]
    keys[4] = keys[5]
    keys[6] = "../outside"
    table = pa.table({"image": pa.array(pictures), "label": pa.array(labels), "id": pa.array(keys)})
    write(tmp_path / "test.parquet", table)
    (tmp_path / "train.parquet").write_bytes(b"PAR1 is not enough")
    write(tmp_path / "val.parquet", table.drop_columns("label"))
    rows, rejected = packed(config(tmp_path, taxonomy="lapa", columns={"image": "image", "label": "label"}))
    assert [row["id"] for row in rows["test"]] == ["row 1", "row 7"]
    assert rejected == {
        "test.parquet#0": "empty_file",
        "test.parquet#2": "undecodable",
        "test.parquet#3": "image_without_label",
        "test.parquet#4": "duplicate_id",
        "test.parquet#5": "duplicate_id",
        "test.parquet#6": "bad_name",
        "test.parquet#8": "undecodable",
        "test.parquet#9": "unknown_id",
        "train.parquet": "unreadable",
        "val.parquet": "unreadable",
    }


def test_a_damaged_row_group_costs_its_own_rows_only(tmp_path):
    path = tmp_path / "train.parquet"
    write(path, faces(range(21)), compression="none", use_dictionary=False)
    damaged = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    damaged[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    path.write_bytes(damaged)
    rows, rejected = packed(config(tmp_path, taxonomy="lapa"))
    assert [row["id"] for row in rows["train"]] == [f"{n:04d}" for n in (*range(7), *range(14, 21))]
    assert rejected == {f"train.parquet#{row}": "unreadable" for row in range(7, 14)}


# Splits and ids.


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00005.parquet", "train"),
        ("data/validation-00000-of-00001.parquet", "val"),
        ("default/test/0000.parquet", "test"),
        ("data/train/part.parquet", "train"),
        ("train/valid.parquet", "val"),
        ("VAL_1.parquet", "val"),
        ("dev.parquet", "val"),
        ("testimony/trainer.parquet", None),
        ("part-00000.parquet", None),
    ],
)
def test_names_of_files_and_folders_decide_the_split(name, split):
    assert split_of_file("s3://bucket/faces", f"s3://bucket/faces/{name}") == split


def test_one_file_is_a_source_and_its_name_decides(tmp_path):
    write(tmp_path / "test-0.parquet", faces(range(3)))
    assert ids(config(tmp_path / "test-0.parquet")) == {"train": [], "val": [], "test": ["0000", "0001", "0002"]}


def test_a_source_whose_names_do_not_decide_is_split_by_shares_or_a_file(tmp_path):
    write(tmp_path / "part.parquet", faces(range(20)))
    found = ids(config(tmp_path))
    assert {split: len(names) for split, names in found.items()} == {"train": 16, "val": 2, "test": 2}
    assert all(names == sorted(names) for names in found.values()), "in the order of the source"
    (tmp_path / "splits.txt").write_text("0003 val\n0001 train\n")
    listing = list_all(config(tmp_path, split_file=f"{tmp_path}/splits.txt"))
    assert [item.id for split in SPLITS for item in listing.samples[split]] == ["0001", "0003"]
    assert {problem["reason"] for problem in listing.rejected} == {"no_split"} and len(listing.rejected) == 18


def test_a_split_file_comes_before_the_names_of_files(tmp_path):
    write(tmp_path / "train.parquet", faces(range(2)))
    (tmp_path / "splits.txt").write_text("0000 val\n0001 test\n")
    assert ids(config(tmp_path, split_file=f"{tmp_path}/splits.txt")) == {
        "train": [],
        "val": ["0000"],
        "test": ["0001"],
    }


def test_rows_without_unique_paths_are_named_by_file_and_number(tmp_path):
    write(tmp_path / "train.parquet", faces(range(2)))
    write(tmp_path / "test.parquet", faces(range(1, 3)))
    assert ids(config(tmp_path)) == {"train": ["train-0", "train-1"], "val": [], "test": ["test-0", "test-1"]}


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / split / "0000.parquet", faces(range(2), image=pa.array([picture(0), picture(1)])))
    found = ids(config(tmp_path))
    assert found["train"] == ["train/0000-0", "train/0000-1"] and found["test"] == ["test/0000-0", "test/0000-1"]


def test_an_id_column_of_numbers_names_the_rows(tmp_path):
    write(tmp_path / "train.parquet", faces(range(2), id=pa.array([7, 12])))
    assert ids(config(tmp_path))["train"] == ["7", "12"]


# Columns.


@pytest.mark.parametrize(
    ("names", "given", "expected"),
    [
        (["image", "label"], {}, ("image", "label")),
        (["Image", "annotation", "depth"], {}, ("Image", "annotation")),
        (["jpg"], {}, ("jpg", None)),
        (["image", "parsing"], {"label": "parsing"}, ("image", "parsing")),
        (["image", "preview"], {"label": ""}, ("image", None)),
        (["label", "a"], {"image": "a"}, ("a", "label")),
    ],
)
def test_columns_are_found_by_name_and_type_or_given(names, given, expected):
    schema = pa.schema([*((name, pa.binary()) for name in names), ("kind", pa.int64()), ("caption", pa.string())])
    found = find_columns(schema, given, "faces.parquet")
    assert (found.image[0], found.label and found.label[0], found.id) == (*expected, None)


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        ([], {}, "no column holds images; give --columns image=NAME; its columns are kind (int64)"),
        (
            ["a", "b"],
            {},
            "which column holds the images is not clear; give --columns image=NAME; its columns are a (bi",
        ),
        (["image", "img"], {}, "which column holds the images is not clear"),
        (["image", "mask", "label"], {}, "which column holds the labels is not clear; give --columns label=NAME, or "),
        (["image", "parsing"], {}, "which column holds the labels is not clear"),
        (["image"], {"image": "face"}, "no column 'face' holds images"),
        (["image"], {"image": "kind"}, "no column 'kind' holds images"),
        (["image"], {"image": ""}, "no column '' holds images"),
        (["image", "image"], {"image": "image"}, "no column 'image' holds images"),
    ],
)
def test_columns_that_are_not_clear_are_asked_for_with_the_list_of_all(names, given, message):
    schema = pa.schema([*((name, pa.binary()) for name in names), ("kind", pa.int64())])
    with pytest.raises(UserError) as error:
        find_columns(schema, given, "faces.parquet")
    assert str(error.value).startswith(f"faces.parquet: {message}") and "kind (int64)" in str(error.value)


def test_a_class_number_is_no_label_map_and_rows_without_one_take_no_taxonomy(tmp_path):
    write(tmp_path / "train.parquet", faces(range(3), label=pa.array([0, 1, 0])))
    with pytest.raises(UserError, match=r"--taxonomy: the faces of .* have no labels; omit it, or name their column"):
        ingest.open_source(config(tmp_path, taxonomy="lapa"), f"{tmp_path}-listing")
    rows, rejected = packed(config(tmp_path))
    assert [row["label"] for row in rows["train"]] == [None] * 3 and not rejected


def test_columns_belong_to_parquet(tmp_path):
    with pytest.raises(UserError, match="--columns: --format images has no columns; omit it"):
        ingest.open_source(
            IngestConfig(format="images", source=str(tmp_path), out="/out", columns={"image": "image"}), "/listing"
        )


# Sizes that a file states.


def test_a_small_file_whose_rows_are_huge_is_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "MAX_GROUP_BYTES", 50 << 20)
    path = tmp_path / "train.parquet"
    write(path, pa.table({"image": pa.array([bytes(60 << 20)])}), compression="zstd")
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match=r"row group 0 of .*train\.parquet states 62,\d+,\d+ bytes of image; at most"):
        list_all(config(tmp_path))


def test_a_large_value_that_a_dictionary_repeats_is_read_row_by_row(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "_BATCH_BYTES", 2000)
    sizes = []
    original = pq.ParquetFile.iter_batches

    def counted(self, size, **more):
        sizes.append(size)
        return original(self, size, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    path = tmp_path / "train.parquet"
    write(path, pa.table({"image": pa.array([bytes(1500)] * 1000)}), row_group_size=1000)
    values = list(parquet_files.read_group(str(path), 0, list_rows(config(tmp_path), f"{tmp_path}-listing").columns))
    assert [row for row, _ in values] == list(range(1000)) and sizes == [1]


def test_more_rows_than_a_file_may_hold_are_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "MAX_FILE_ROWS", 5)
    write(tmp_path / "train.parquet", faces(range(6)))
    write(tmp_path / "test.parquet", faces(range(3)))
    listing = list_all(config(tmp_path))
    assert len(listing.samples["test"]) == 3 and "it states 6 rows; at most 5" in listing.rejected[0]["detail"]


def test_a_folder_without_parquet_files_is_refused(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"holds 0 \.parquet files, none of which can be read"):
        list_all(config(tmp_path))


def test_rows_of_several_sources_begin_with_their_names_and_other_files_are_counted(tmp_path):
    """Both sources have the same ids; the first names its splits by files, and the split file names ids of both."""
    for place, numbers in (("a/faces", range(4)), ("b/faces", range(2))):
        write(tmp_path / place / "train.parquet", faces(numbers))
        (tmp_path / place / "README.md").write_text("")
    both = f"{tmp_path}/a/faces,{tmp_path}/b/faces"
    first = [f"faces/{number:04d}" for number in range(4)]
    assert ids(config(both, taxonomy="lapa"))["train"] == [*first, "faces-2/0000", "faces-2/0001"]
    assert list_all(config(both, taxonomy="lapa")).ignored == {".md": 2}
    (tmp_path / "splits.txt").write_text("0000 val\nfaces/0001 test\n0001 train\n")
    found = ids(config(both, taxonomy="lapa", split_file=str(tmp_path / "splits.txt")))
    assert found == {"train": ["faces-2/0001"], "val": ["faces/0000", "faces-2/0000"], "test": ["faces/0001"]}
