"""Faces without labels, Parquet data sets of other origin, and merged data sets, on the shared cluster."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import report, storage
from pipelines.config.base import SPLITS
from pipelines.config.commands import IngestConfig, MergeConfig, RelabelConfig, ReportConfig
from pipelines.data import dataset, merge, packing
from pipelines.errors import OutputTakenError, UserError
from pipelines.ingest import ingest
from pipelines.relabeling import relabel, suspects
from pipelines.training import train
from tests.support.data_sets import rows_of
from tests.support.training import smoke


@pytest.fixture(scope="module")
def unlabelled(raw, tmp_path_factory):
    """The images of the raw folder, packed without labels."""
    source, out = tmp_path_factory.mktemp("images"), str(tmp_path_factory.mktemp("unlabelled") / "data")
    for split in SPLITS:
        for image in (raw / split / "images").iterdir():
            target = source / ("valid" if split == "val" else split) / "any" / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(image.read_bytes())
    (source / "train" / "broken.jpg").write_bytes(b"no image")
    result = ingest.run(IngestConfig(format="images", source=str(source), out=out))
    assert result["num_rows"] == {"train": 16, "val": 2, "test": 2} and result["reasons"] == {"undecodable": 1}
    return source, out


@pytest.fixture(scope="module")
def labelled(unlabelled, model, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("labelled") / "data")
    relabel.run(RelabelConfig(model=model, data=unlabelled[1], out=out, suspects=4))
    return out


def test_faces_without_labels_are_packed_with_their_bytes(unlabelled):
    source, out = unlabelled
    assert dataset.read_manifest(out).label_taxonomy is None
    for split in SPLITS:
        for row in rows_of(out, split):
            assert row["label"] is None and row["image"] == (source / f"{row['id']}.jpg").read_bytes()


@pytest.mark.parametrize("policy", ["confident", pytest.param("replace", marks=pytest.mark.faults)])
def test_every_policy_gives_unlabelled_faces_the_labels_of_the_model(unlabelled, labelled, model, tmp_path, policy):
    out = str(tmp_path / "data")
    result = relabel.run(RelabelConfig(model=model, data=unlabelled[1], out=out, policy=policy))
    assert result["num_rows"] == {"train": 16, "val": 2, "test": 2} and result["mean_quality"] is None
    for split in SPLITS:
        rows = rows_of(out, split)
        assert {row["rule"] for row in rows} == {"unlabelled"}
        for name, others in (("id", unlabelled[1]), ("image", unlabelled[1]), ("label", labelled)):
            assert [row[name] for row in rows] == [row[name] for row in rows_of(others, split)]


def test_what_relabel_made_of_unlabelled_faces_is_reported_and_trained_on(labelled, tmp_path):
    manifest = dataset.read_manifest(labelled)
    assert manifest.taxonomy.name == "celebamask_hq"
    assert suspects.worst(labelled) == [] and not storage.exists(f"{labelled}/{suspects.FOLDER}")
    report.run(ReportConfig(run=labelled, out=f"{tmp_path}/page.html"))
    assert "No row had a label before" in (tmp_path / "page.html").read_text()
    train.check_inputs(smoke(labelled, tmp_path / "run"), manifest)
    result = train.run(smoke(labelled, tmp_path / "run", schedule={"epochs": 1, "warmup_epochs": 0.5}))
    assert result["num_epochs"] == 1


def write_parquet(rows, uri, **columns):
    """Writes rows as Hugging Face does, in row groups of 5."""
    images = [{"bytes": row["image"], "path": f"{row['id']}.jpg"} for row in rows]
    table = pa.table({"image": images, "mask": [{"bytes": row["label"], "path": None} for row in rows], **columns})
    written = io.BytesIO()
    pq.write_table(table, written, row_group_size=5)
    storage.write_bytes(uri, written.getvalue())


@pytest.fixture(scope="module")
def hugging_face(faces, s3):
    """The faces on S3 in the layout of Hugging Face, the training rows in two files."""
    source, train_rows = f"{s3}/hugging-face", rows_of(faces)
    write_parquet(train_rows[:30], f"{source}/data/train-00000-of-00002.parquet")
    write_parquet(train_rows[30:], f"{source}/data/train-00001-of-00002.parquet")
    write_parquet(rows_of(faces, "val"), f"{source}/data/validation-00000-of-00001.parquet")
    write_parquet(rows_of(faces, "test"), f"{source}/data/test-00000-of-00001.parquet")
    return source


@pytest.fixture(scope="module")
def from_parquet(hugging_face, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("parquet") / "data")
    config = IngestConfig(format="parquet", source=hugging_face, out=out, taxonomy="celebamask_hq")
    assert ingest.run(config)["num_quarantined"] == 0
    return config


def test_rows_of_a_parquet_data_set_are_packed_byte_for_byte(faces, from_parquet, s3):
    for split in SPLITS:
        rows, expected = rows_of(from_parquet.out, split), rows_of(faces, split)
        for name in ("id", "image", "label", "height", "width"):
            assert [row[name] for row in rows] == [row[name] for row in expected]
    assert json.loads(rows_of(from_parquet.out)[31]["meta"])["source"].endswith("/train-00001-of-00002.parquet#1")
    remote = from_parquet.model_copy(update={"out": f"{s3}/from-parquet"})
    ingest.run(remote)
    assert dataset.read_manifest(remote.out).digest == dataset.read_manifest(from_parquet.out).digest


def test_a_merged_data_set_is_the_union_of_its_parts(faces, labelled, from_parquet, tmp_path):
    parts = [labelled, from_parquet.out, str(faces)]
    config = MergeConfig(data=",".join(parts), out=str(tmp_path / "both"))
    result = merge.run(config)
    prefixes = ["data", "data-2", "data-3"]
    for split in SPLITS:
        expected = [
            {name: row[name] for name in dataset.SCHEMA.names} | {"id": f"{prefix}/{row['id']}"}
            for prefix, part in zip(prefixes, parts, strict=True)
            for row in rows_of(part, split)
        ]
        assert rows_of(config.out, split) == expected and result["num_rows"][split] == len(expected)
    manifests = [dataset.read_manifest(part) for part in parts]
    manifest = dataset.read_manifest(config.out)
    assert manifest.lineage["data"] == parts and manifest.lineage["prefixes"] == prefixes
    assert manifest.lineage["data_digests"] == [each.digest for each in manifests]
    assert set(manifest.origins) == {origin for each in manifests for origin in each.origins}
    assert merge.run(config) == result, "a finished merge is not done again"
    train.check_inputs(smoke(config.out, tmp_path / "run"), manifest)
    report.run(ReportConfig(run=config.out, out=f"{tmp_path}/page.html"))


def test_problems_of_all_parts_are_listed_in_the_merged_data_set(unlabelled, raw, tmp_path):
    source = tmp_path / "more"
    for name in ("a.jpg", "b.jpg"):
        storage.write_bytes(f"{source}/{name}", b"")
    image = next((raw / "train" / "images").iterdir())
    storage.write_bytes(f"{source}/c.jpg", image.read_bytes())
    other = str(tmp_path / "other")
    ingest.run(IngestConfig(format="images", source=str(source), out=other, splits={"train": 1}))
    out = str(tmp_path / "both")
    assert merge.run(MergeConfig(data=f"{unlabelled[1]},{other}", out=out))["num_rows"]["train"] == 17
    manifest = dataset.read_manifest(out)
    assert manifest.label_taxonomy is None and manifest.reasons == {"empty_file": 2, "undecodable": 1}
    found = packing.read_problems(out, packing.QUARANTINE)
    assert {f"{source}/a.jpg", f"{source}/b.jpg", f"{unlabelled[0]}/train/broken.jpg"} == {p["source"] for p in found}


def test_an_interrupted_merge_goes_on_and_has_each_row_once(from_parquet, faces, tmp_path):
    broken = f"{tmp_path}/part"
    for uri in storage.list_files(str(faces)):
        storage.write_bytes(broken + uri.removeprefix(str(faces)), storage.read_bytes(uri))
    path = f"{broken}/{dataset.read_manifest(broken).splits['test'][0].path}"
    content = storage.read_bytes(path)
    storage.write_bytes(path, content[:-100])
    config = MergeConfig(data=f"{from_parquet.out},{broken}", out=f"{tmp_path}/both")
    with pytest.raises(UserError, match=r"cannot read .*part-00000-\w+\.parquet"):
        merge.run(config)
    assert not storage.exists(f"{config.out}/dataset.json")
    storage.write_bytes(path, content)
    assert merge.run(config)["num_rows"] == {"train": 96, "val": 12, "test": 12}
    fresh = config.model_copy(update={"out": f"{tmp_path}/fresh"})
    merge.run(fresh)
    assert dataset.read_manifest(config.out).digest == dataset.read_manifest(fresh.out).digest
    with pytest.raises(OutputTakenError, match="was begun with data = "):
        merge.run(MergeConfig(data=f"{broken},{from_parquet.out}", out=config.out))
