"""Every reader of images and data sets: whatever the bytes hold, it answers, or says in one sentence why it cannot.

Nothing but the documented error may come out. `make test-faults` runs the same with twenty times as many examples.
"""

import hashlib
import io
import json
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dmlcsr.augment import Augmentation
from dmlcsr.image_files import BadSampleError, read_image
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import Preprocessing
from pipelines import report, storage  # fmt: skip
from pipelines.config.base import SPLITS
from pipelines.config.commands import IngestConfig, ReportConfig
from pipelines.data import bad_rows, dataset, images, packing, row_groups
from pipelines.data.dataset import Row
from pipelines.data.images import encode_png
from pipelines.data.ordered import OrderedRows
from pipelines.data.stream import ChunkPart, TrainStream
from pipelines.errors import UserError
from pipelines.ingest import checks, ingest, splits
from pipelines.ingest.duplicates import image_hash
from pipelines.ingest.split_file import SplitFile
from pipelines.inspection import scan
from pipelines.relabeling import suspects
from tests.support.commands import DATA
from tests.support.damage import as_file, changed, damaged
from tests.support.label_versions import write_base, write_version
from tests.support.raw_trees import list_all, whole

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8)
LABEL = encode_png(np.arange(480, dtype=np.uint8).reshape(24, 20) % 19)
PICTURES = [cv2.imencode(suffix, PIXELS)[1].tobytes() for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff")]


def saved(image, kind):
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


CUT_OUT = Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]]))
CUT_OUTS = [*(saved(CUT_OUT, kind) for kind in ("PNG", "WEBP", "TIFF", "GIF")), saved(CUT_OUT.quantize(), "PNG")]
PHOTOS = [*PICTURES, *CUT_OUTS, saved(CUT_OUT, "AVIF"), (DATA / "turned.heic").read_bytes()]


# Images and labels.


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow warns of damage that it can read past
@given(damaged(PICTURES + CUT_OUTS))
def test_an_image_is_decoded_or_refused(data):
    with suppress(BadSampleError):
        height, width = checks.check_image(data)
        assert images.decode_image(data).shape == (height, width, 3), "what is packed can be trained on"
        assert checks.orientation(data) in range(1, 9)
        assert (image_hash(data, (height, width)) or 0) < 2**64
    with suppress(ValueError):
        assert images.decode_image(data, factor=4).dtype == np.uint8


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(damaged(PHOTOS))
def test_a_photo_is_read_or_refused(data):
    with suppress(BadSampleError):
        assert read_image(data).ndim == 3


@given(damaged([LABEL, PICTURES[1]]))
def test_a_label_is_decoded_or_refused(data):
    with suppress(BadSampleError):
        images.check_label(checks.decode_ids(data), (24, 20), CELEBAMASK_HQ)
    with suppress(ValueError):
        assert images.decode_label(data).ndim == 2


def test_a_small_file_that_claims_many_pixels_is_refused_before_they_are_made():
    picture = io.BytesIO()
    Image.new("L", (20_000, 20_000)).save(picture, "PNG")
    assert len(picture.getvalue()) < 1_000_000
    for read in (checks.check_image, checks.decode_ids):
        with pytest.raises(BadSampleError) as refused:
            read(picture.getvalue())
        assert refused.value.reason == "too_large"


def test_a_file_whose_format_would_start_another_program_is_no_image():
    drawing = io.BytesIO()
    Image.fromarray(PIXELS).save(drawing, "EPS")
    with pytest.raises(BadSampleError, match="not an image"):
        checks.check_image(drawing.getvalue())


# Data sets.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = str(tmp_path_factory.mktemp("data") / "set")
    rows = [Row(id=f"row/{n}", image=PICTURES[n], label=LABEL, height=24, width=20, meta="{}") for n in range(5)]
    file = dataset.write_file(out, "train/part-00000", rows, rows_per_group=2)
    assert file is not None
    packing.write_manifest(out, CELEBAMASK_HQ, {"train": [file]}, [], {"command": "ingest"}, rows_per_group=2)
    return out


def read_all(uri, manifest):
    source = row_groups.open_split(uri, manifest, "train")
    return row_groups.read_rows(source, source.groups.locate(0, source.num_rows), dataset.SCHEMA.names)


@given(draws=st.data())
def test_a_manifest_is_read_or_refused_and_names_no_file_elsewhere(data, draws, tmp_path_factory):
    original = storage.read_json(f"{data}/dataset.json")
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "dataset.json").write_bytes(draws.draw(as_file(original)))
    with suppress(UserError):
        manifest = dataset.read_manifest(str(folder))
        for split, files in manifest.splits.items():
            assert split in SPLITS
            assert all((folder / file.path).resolve().is_relative_to(folder.resolve()) for file in files)


@pytest.mark.parametrize("path", ["../../etc/part.parquet", "/etc/part.parquet", "train/../../x.parquet", "train/.x"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(data, tmp_path, path):
    content = storage.read_json(f"{data}/dataset.json")
    content["splits"]["train"][0]["path"] = path
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged at"):
        dataset.read_manifest(str(tmp_path))


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version of a version: its own labels in one split, those of the version before in another."""
    folder = tmp_path_factory.mktemp("versions")
    write_base(f"{folder}/v0", {"train": (3, 2), "val": (1,)})
    write_version(f"{folder}/v1", f"{folder}/v0", {"train", "val"})
    write_version(f"{folder}/v2", f"{folder}/v1", {"train"}, bad={"train/0/1"})
    return f"{folder}/v2"


@given(draws=st.data())
def test_a_manifest_with_bases_is_read_or_refused_and_names_files_of_bases_only(version, draws, tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    (folder / "dataset.json").write_bytes(draws.draw(as_file(storage.read_json(f"{version}/dataset.json"))))
    with suppress(UserError):
        manifest = dataset.read_manifest(str(folder))
        for file in (file for files in manifest.splits.values() for file in files):
            for ref in (ref for ref in (file, file.images, file.previous) if ref is not None):
                home = folder if ref.base is None else Path(manifest.bases[ref.base].uri)
                assert Path(manifest.locate(str(folder), ref)).resolve().is_relative_to(home.resolve())
        for number in manifest.used_bases():
            uri, digest = manifest.bases[number].uri, manifest.bases[number].digest
            assert storage.read_json(f"{uri}/dataset.json")["digest"] == digest


@pytest.mark.parametrize("path", ["../../etc/part.parquet", "/etc/part.parquet", "train/../../x.parquet", "train/.x"])
@pytest.mark.parametrize("field", ["images", "previous"])
def test_a_manifest_that_leads_out_of_a_base_is_refused(version, tmp_path, field, path):
    content = storage.read_json(f"{version}/dataset.json")
    content["splits"]["train"][0][field]["path"] = path
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is damaged at"):
        dataset.read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("../v0", "is damaged at"),
        ("http://127.0.0.1/v0", "is damaged at"),
        ("/etc", "refers to files of /etc, where no data set is"),
        ("/\0", "cannot read"),
    ],
)
def test_a_base_that_is_no_data_set_is_refused(version, tmp_path, uri, message):
    content = storage.read_json(f"{version}/dataset.json")
    content["bases"][0]["uri"] = uri
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        dataset.read_manifest(str(tmp_path))


@given(draws=st.data())
def test_the_rows_of_a_version_with_a_damaged_file_of_labels_are_read_or_refused(version, draws, tmp_path_factory):
    manifest = dataset.read_manifest(version)
    folder = tmp_path_factory.mktemp("rows")
    for file in manifest.splits["train"]:
        content = draws.draw(damaged([storage.read_bytes(f"{version}/{file.path}")]))
        storage.write_bytes(f"{folder}/{file.path}", content)
    other = manifest.model_copy(update={"digest": f"{folder}"})
    with suppress(UserError):
        assert len(read_all(str(folder), other)) == 5


@given(draws=st.data())
def test_the_rows_of_a_damaged_file_are_read_or_refused(data, draws, tmp_path_factory):
    manifest = dataset.read_manifest(data)
    path = manifest.splits["train"][0].path
    content = draws.draw(damaged([storage.read_bytes(f"{data}/{path}")]))
    folder = tmp_path_factory.mktemp("rows")
    storage.write_bytes(f"{folder}/{path}", content)
    other = manifest.model_copy(update={"digest": hashlib.sha256(content).hexdigest()})
    with suppress(UserError):
        assert len(read_all(str(folder), other)) == 5


@pytest.mark.parametrize("kind", ["compressed", "repeated", "other columns", "fewer rows"])
def test_rows_that_this_program_did_not_write_are_refused(data, tmp_path, kind):
    manifest = dataset.read_manifest(data)
    path = manifest.splits["train"][0].path
    table = pq.read_table(f"{data}/{path}")
    (tmp_path / "train").mkdir()
    options = {"compression": "none", "use_dictionary": False, "row_group_size": 2}
    if kind == "compressed":
        options["compression"] = "zstd"
    elif kind == "repeated":
        options["use_dictionary"] = True
    elif kind == "other columns":
        table = table.set_column(1, "image", pa.array(["text"] * 5))
    else:
        table = table.slice(0, 3)
    pq.write_table(table, tmp_path / path, **options)
    with pytest.raises(UserError, match=r"part-00000-\w+\.parquet"):
        read_all(str(tmp_path), manifest.model_copy(update={"digest": kind}))


@given(as_file({"worst": [[0.5, "row/1", "train/part-00000.parquet", 1], [0.6, "a", "train/part-00000.parquet", 0]]}))
def test_the_list_of_suspects_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("worst")
    (folder / suspects.WORST).write_bytes(content)
    with suppress(UserError):
        assert all(isinstance(suspect.quality, float) for suspect in suspects.worst(str(folder)))


@given(label=st.none() | damaged([LABEL, PICTURES[1]]), size=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2))
def test_a_row_is_counted_or_listed_with_a_reason(tmp_path_factory, label, size):
    out = str(tmp_path_factory.mktemp("counted"))
    row = Row(id="row/0", image=b"", label=label, height=size[0], width=size[1], meta="{}")
    file = dataset.write_file(out, "train/part-00000", [row])
    assert file is not None
    manifest = packing.write_manifest(out, CELEBAMASK_HQ, {"train": [file]}, [], {})
    source = row_groups.open_split(out, manifest, "train")
    counts = scan.count_groups(source, "train", range(1), None)
    assert counts.num_labels + counts.num_unlabelled + counts.problems.total() == counts.sides.sum() == 1
    assert scan.draw_row(source, row_groups.RowRange(0, 0, 0, 1)) == ("row/0", None)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    image=damaged(PICTURES), label=st.none() | damaged([LABEL]), size=st.tuples(*[st.integers(-(2**31), 2**31 - 1)] * 2)
)
def test_a_row_is_trained_on_and_scored_or_left_out_with_a_reason(tmp_path_factory, image, label, size):
    out = str(tmp_path_factory.mktemp("trained"))
    row = Row(id="row/0", image=image, label=label, height=size[0], width=size[1], meta="{}")
    file = dataset.write_file(out, "train/part-00000", [row])
    assert file is not None
    manifest = packing.write_manifest(out, CELEBAMASK_HQ, {"train": [file]}, [], {})
    source = row_groups.open_split(out, manifest, "train")
    settings = {"size": 32, "batch_size": 1, "seed": 0, "rank": 0, "world_size": 1}
    train = TrainStream(source=source, augmentation=Augmentation(), records=f"{out}/records", **settings)
    assert train.decode(ChunkPart(0, 0, 1))["label"].shape == (1, 32, 32)
    (chunk,) = OrderedRows(source=source, preprocessing=Preprocessing(size=32)).chunks()
    known = [bad_rows.read_record(uri)["reason"] for uri in bad_rows.list_records(f"{out}/records")]
    assert known == [reason for reason in chunk["reason"] if reason]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """The bytes of a table of problems, and of another table."""
    folder = tmp_path_factory.mktemp("problems")
    found = [packing.SampleProblem(source=f"row/{n}", reason="only_background", detail="") for n in range(3)]
    packing.write_problems(str(folder), packing.REMARKS, found)
    other = io.BytesIO()
    pq.write_table(pa.table({"source": ["a"], "reason": [1]}), other)
    return [(folder / "remarks/part-00000.parquet").read_bytes(), other.getvalue()]


@given(as_file({"source": "row/1", "reason": "undecodable", "detail": ""}))
def test_the_record_of_a_bad_row_is_read_or_refused(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("record")
    (folder / "row.json").write_bytes(content)
    with suppress(UserError):
        assert all(isinstance(value, str) for value in bad_rows.read_record(f"{folder}/row.json").values())


@given(draws=st.data())
def test_a_table_of_problems_is_read_or_refused(problems, draws, tmp_path_factory):
    folder = tmp_path_factory.mktemp("read")
    (folder / "remarks").mkdir()
    (folder / "remarks/part-00000.parquet").write_bytes(draws.draw(damaged(problems)))
    with suppress(UserError):
        for found in packing.read_problems(str(folder), packing.REMARKS):
            assert set(found) == {"source", "reason", "detail"}


RELABELLED = {
    "num_rows": 5, "num_changed_rows": 2, "num_pixels": 100, "num_changed_pixels": 7,
    "changed_pixels": {"skin > hair": 7}, "mean_quality": 0.5, "class_quality": {"skin": 0.5},
}  # fmt: skip


@given(relabelled=changed(RELABELLED), lineage=changed({"command": "relabel", "splits": ["train"], "tta": False}))
def test_a_page_about_a_data_set_is_written_or_refused(data, tmp_path_factory, relabelled, lineage):
    folder = tmp_path_factory.mktemp("reported")
    content = storage.read_json(f"{data}/dataset.json") | {"relabelled": relabelled, "lineage": lineage}
    (folder / "dataset.json").write_text(json.dumps(content))
    (folder / suspects.WORST).write_text('{"worst": [[0.5, "row/1", "train/part-00000.parquet", 1]]}')
    with suppress(UserError):
        report.run(ReportConfig(run=str(folder), out=f"{folder}/page.html"))


# Lists in raw folders.

LINES = [
    b"images/a.jpg labels/a.png\n",
    b"images/a.jpg b.jpg labels/a.jpg b.png\n" * 2,
    "\ufeffimages/e\u0301 x.jpg labels/\u00e9 x.png".encode(),
]


@pytest.mark.parametrize("name", ["split", "helen", "celeba", "list"])
@given(content=damaged([b"1 , a/b\n2,c\n", b"a train\nb/c test\n", *LINES, b"0 1 01.jpg\n"]))
def test_lists_of_raw_data_are_read_or_refused(tmp_path_factory, name, content):
    folder = tmp_path_factory.mktemp("lists")
    names = {"split": ["split.txt"], "helen": list(splits.HELEN_LISTS), "celeba": [splits.CELEBA_MAPPING]}
    for file in ("images/a.jpg", "labels/a.png", "images/a.jpg b.jpg", "labels/a.jpg b.png"):
        storage.write_bytes(f"{folder}/train/{file}", b"")
    for file in names.get(name, ["train_list.txt"]):
        (folder / file).write_bytes(content)
    with suppress(UserError):
        if name == "split":
            assert set(SplitFile(f"{folder}/split.txt").numbers_of("", ["a", "b/c", ""])) <= {-1, 0, 1, 2}
        elif name == "list":
            config = IngestConfig(format="pairs", taxonomy="lapa", source=str(folder), out=f"{folder}/out")
            found = list_all(config)
            uris = [uri for each in found.samples.values() for s in each for uri in (s.image, s.label[0][1])]
            assert all(uri.startswith(f"{folder}/train/") and ".." not in uri.split("/") for uri in uris)
        else:
            (splits.helen if name == "helen" else splits.celeba)(str(folder))


# Parquet data sets of other origin.


def _other(kind):
    """The bytes of a Parquet file of three faces, with a column of ids or with Hugging Face's structs."""
    if kind == "structs":
        pictures = [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(PICTURES[:3])]
        columns = {"image": pictures, "label": [{"bytes": LABEL, "path": None}] * 3}
    else:
        columns = {"image": PICTURES[:3], "label": [LABEL] * 3, "id": ["a", "b", "c"]}
    written = io.BytesIO()
    pq.write_table(pa.table(columns), written, row_group_size=2, compression="zstd" if kind == "structs" else "none")
    return written.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(content=damaged([_other("structs"), _other("columns")]))
def test_the_rows_of_any_parquet_file_are_packed_or_quarantined(tmp_path_factory, content):
    source = tmp_path_factory.mktemp("parquet")
    (source / "train.parquet").write_bytes(content)
    (source / "test.parquet").write_bytes(_other("columns"))
    named = {"image": "image", "label": "label"}
    config = IngestConfig(
        format="parquet", taxonomy="celebamask_hq", source=str(source), out=f"{source}/out", columns=named
    )
    with suppress(UserError):
        found = ingest.open_source(config, f"{source}-listing")
        for items in whole(found.listing).samples.values():
            packed = found.make_rows(items)
            assert len(packed.rows) + len(packed.rejected) == len(items)
            assert all(row["label"] is not None for row in packed.rows)
