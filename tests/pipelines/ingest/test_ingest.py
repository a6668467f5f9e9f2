import io
import shutil

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from pipelines import storage
from pipelines.config.base import SPLITS
from pipelines.config.commands import IngestConfig
from pipelines.data import dataset
from pipelines.errors import OutputTakenError, UserError
from pipelines.ingest import ingest, pack
from tests.support.data_sets import pairs, rows_of


def quarantine(out):
    data = storage.read_bytes(storage.join(str(out), "quarantine", "part-00000.parquet"))
    return {row["source"].rsplit("/", 1)[-1]: row["reason"] for row in pq.read_table(io.BytesIO(data)).to_pylist()}


def test_a_paired_folder_is_packed_with_bytes_untouched(raw, tmp_path):
    result = ingest.run(pairs(raw, tmp_path / "out"))
    assert result["num_rows"] == {"train": 16, "val": 2, "test": 2} and result["num_quarantined"] == 0
    for row in rows_of(tmp_path / "out"):
        split, name = row["id"].split("/")
        assert row["image"] == (raw / split / "images" / f"{name}.jpg").read_bytes()
        assert row["label"] == (raw / split / "labels" / f"{name}.png").read_bytes()
        assert (row["height"], row["width"]) == (64, 64)


def test_several_sources_become_one_data_set_and_what_is_left_over_is_counted(raw, tmp_path):
    """The second source is laid out as Relabeled-HELEN, behind a link."""
    flat = tmp_path / "flat"
    (flat / "valid").mkdir(parents=True)
    for image in (raw / "train" / "images").iterdir():
        shutil.copy(image, flat / "valid" / f"{image.stem}_image.jpg")
        shutil.copy(raw / "train" / "labels" / f"{image.stem}.png", flat / "valid" / f"{image.stem}_label.png")
    (flat / "notes.txt").touch()
    (tmp_path / "linked").symlink_to(flat)
    config = pairs(f"{raw},{tmp_path / 'linked'}", tmp_path / "out")
    result = ingest.run(config)
    assert result["num_rows"] == {"train": 16, "val": 18, "test": 2} and result["num_quarantined"] == 0
    assert result["ignored"][".txt"] == 1 and "1 .txt" in ingest.summary(result)
    labels = {row["id"]: row["label"] for split in ("train", "val") for row in rows_of(tmp_path / "out", split)}
    for image in (raw / "train" / "images").iterdir():
        assert labels[f"linked/val/{image.stem}"] == labels[f"{raw.name}/train/{image.stem}"]
    assert ingest.run(config) == result
    assert dataset.read_manifest(config.out).lineage["source"] == [str(raw), str(tmp_path / "linked")]


def test_the_same_ingest_gives_the_same_digest_on_s3(raw, tmp_path, s3):
    local, remote = pairs(raw, tmp_path / "out"), pairs(raw, f"{s3}/ingested")
    assert ingest.run(local)["num_rows"] == ingest.run(remote)["num_rows"]
    assert dataset.read_manifest(local.out).digest == dataset.read_manifest(remote.out).digest


def test_bad_samples_go_to_quarantine_with_a_reason_and_the_rest_is_packed(raw, tmp_path):
    source = tmp_path / "bad"
    shutil.copytree(raw, source)
    images, labels = sorted((source / "train/images").iterdir()), sorted((source / "train/labels").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:700])
    images[1].write_bytes(b"")
    labels[2].unlink()
    images[3].unlink()
    cv2.imwrite(str(labels[4]), np.zeros((64, 64, 3), np.uint8))
    cv2.imwrite(str(labels[5]), np.full((64, 64), 200, np.uint8))
    cv2.imwrite(str(labels[6]), np.zeros((128, 128), np.uint8))
    cv2.imwrite(str(labels[7]), np.zeros((32, 48), np.uint8))
    result = ingest.run(pairs(source, tmp_path / "out"))
    assert quarantine(tmp_path / "out") == {
        images[0].name: "undecodable",
        images[1].name: "empty_file",
        images[2].name: "image_without_label",
        labels[3].name: "label_without_image",
        images[4].name: "label_not_ids",
        images[5].name: "unknown_id",
        images[6].name: "label_size",
        images[7].name: "label_size",
    }
    assert result["num_quarantined"] == 8 and sum(result["reasons"].values()) == 8
    assert result["num_rows"] == {"train": 8, "val": 2, "test": 2}


def test_palette_labels_keep_their_index_and_smaller_labels_their_size(raw, tmp_path):
    source = tmp_path / "palette"
    for kind in ("images", "labels"):
        (source / "train" / kind).mkdir(parents=True)
    ids = np.random.default_rng(0).integers(0, 19, (32, 32)).astype(np.uint8)
    label = Image.fromarray(ids, mode="P")
    label.putpalette([value for color in CELEBAMASK_HQ.palette for value in color])
    label.save(source / "train/labels/a.png")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(source / "train/images/a.jpg")
    ingest.run(pairs(source, tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out")
    packed = cv2.imdecode(np.frombuffer(row["label"], np.uint8), cv2.IMREAD_UNCHANGED)
    assert packed.shape == (32, 32) and (packed == ids).all()


def test_a_turned_photo_has_its_upright_size(raw, tmp_path):
    source = tmp_path / "turned"
    for kind in ("images", "labels"):
        (source / "train" / kind).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(source / "train/images/a.jpg", exif=exif)
    Image.fromarray(np.zeros((60, 40), np.uint8)).save(source / "train/labels/a.png")
    ingest.run(pairs(source, tmp_path / "out"))
    (row,) = rows_of(tmp_path / "out")
    assert (row["height"], row["width"]) == (60, 40)


def test_several_files_of_one_name_are_all_quarantined(raw, tmp_path):
    source = tmp_path / "twice"
    shutil.copytree(raw, source)
    first = sorted((source / "train/images").iterdir())[0]
    shutil.copy(first, first.with_suffix(".png"))
    result = ingest.run(pairs(source, tmp_path / "out"))
    assert result["reasons"] == {"duplicate_id": 2} and result["num_rows"]["train"] == 15


def test_a_list_file_says_what_a_split_holds(raw, tmp_path):
    source = tmp_path / "listed"
    shutil.copytree(raw, source)
    names = sorted(path.stem for path in (source / "train/images").iterdir())
    lines = [f"images/{name}.jpg labels/{name}.png" for name in [*names[:3], "missing"]]
    (source / "train_list.txt").write_text("\n".join(lines))
    (source / "train/labels" / f"{names[5]}.png").unlink()  # not listed, so nobody misses it
    result = ingest.run(pairs(source, tmp_path / "out"))
    assert result["num_rows"] == {"train": 3, "val": 2, "test": 2}
    assert result["reasons"] == {"unreadable": 1}
    assert sorted(row["id"] for row in rows_of(tmp_path / "out")) == [f"train/{name}" for name in names[:3]]


@pytest.fixture(scope="module")
def flat(raw, tmp_path_factory):
    """The faces under Face Synthetics' names, ids folded into its taxonomy."""
    out = tmp_path_factory.mktemp("flat") / "renders"
    out.mkdir()
    for number, image in enumerate(sorted(raw.glob("*/images/*.jpg"))):
        shutil.copy(image, out / f"{number:06d}.jpg")
        label = cv2.imread(str(image.parent.parent / "labels" / f"{image.stem}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(out / f"{number:06d}_seg.png"), label)
    return out


def test_face_synthetics_is_split_by_shares_and_every_frame_is_in_one_split(flat, tmp_path):
    config = IngestConfig(
        format="face_synthetics", source=str(flat), out=str(tmp_path / "out"), splits="train=.5,val=.25,test=.25"
    )
    assert ingest.run(config)["num_rows"] == {"train": 10, "val": 5, "test": 5}
    ids = [row["id"] for split in SPLITS for row in rows_of(tmp_path / "out", split)]
    assert sorted(ids) == [f"{number:06d}" for number in range(20)]


def test_a_split_file_decides_and_what_it_does_not_name_is_quarantined(flat, tmp_path):
    file = tmp_path / "splits.txt"
    file.write_text("000000 train\n000001 val\n\n000002 test\n")
    config = IngestConfig(format="face_synthetics", source=str(flat), out=str(tmp_path / "out"), split_file=str(file))
    result = ingest.run(config)
    assert result["num_rows"] == {"train": 1, "val": 1, "test": 1}
    assert result["reasons"] == {"no_split": 17}


def test_a_remap_rewrites_the_labels_by_the_explicit_table(raw, tmp_path):
    ingest.run(pairs(raw, tmp_path / "out", remap_to="lapa"))
    manifest = dataset.read_manifest(str(tmp_path / "out"))
    assert manifest.taxonomy.name == "lapa"
    for row in rows_of(tmp_path / "out"):
        label = cv2.imdecode(np.frombuffer(row["label"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert label.max() < LAPA.num_classes and (label == LAPA.classes.index("nose")).any()


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_a_wholly_wrong_folder_says_what_was_expected(ray_cluster, tmp_path, content):
    source = tmp_path / "source"
    if content:
        source.mkdir()
        (source / content).write_text("nothing")
    with pytest.raises(UserError, match=r"does not exist|expected images/<name>.*found 1 \.txt \(such as notes\.txt\)"):
        ingest.run(pairs(source, tmp_path / "out"))


def test_a_folder_without_any_good_sample_is_an_error_with_the_first_reason(raw, tmp_path):
    source = tmp_path / "bad"
    shutil.copytree(raw, source)
    for image in source.glob("*/images/*.jpg"):
        image.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"no sample could be used.*undecodable"):
        ingest.run(pairs(source, tmp_path / "out"))
    assert not storage.exists(storage.join(str(tmp_path / "out"), dataset.MANIFEST))


def test_a_mistyped_source_leaves_the_output_free(raw, tmp_path):
    with pytest.raises(UserError):
        ingest.run(pairs(tmp_path / "nowhere", tmp_path / "out"))
    assert ingest.run(pairs(raw, tmp_path / "out"))["num_rows"]["train"] == 16


def test_an_output_with_other_files_is_refused_and_left_alone(raw, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(OutputTakenError, match="not empty"):
        ingest.run(pairs(raw, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_pairs_need_a_taxonomy(tmp_path):
    with pytest.raises(UserError, match="--taxonomy is required"):
        ingest.run(IngestConfig(format="pairs", source=str(tmp_path), out=str(tmp_path / "out")))


@pytest.fixture(scope="module")
def celeba(raw, tmp_path_factory):
    """The faces as CelebAMask-HQ publishes them: a mask of half the image's size for each part, and a mapping."""
    out = tmp_path_factory.mktemp("celeba")
    lines = ["idx orig_idx orig_file"]
    for number, image in enumerate(sorted(raw.glob("*/images/*.jpg"))):
        label = cv2.imread(str(image.parent.parent / "labels" / f"{image.stem}.png"), cv2.IMREAD_GRAYSCALE)[::2, ::2]
        folder = out / "CelebAMask-HQ-mask-anno" / str(number // 10)
        folder.mkdir(parents=True, exist_ok=True)
        for part in set(np.unique(label)) - {0}:
            mask = np.repeat(255 * (label == part).astype(np.uint8)[..., None], 3, axis=2)
            cv2.imwrite(str(folder / f"{number:05d}_{CELEBAMASK_HQ.classes[part]}.png"), mask)
        (out / "CelebA-HQ-img").mkdir(exist_ok=True)
        shutil.copy(image, out / "CelebA-HQ-img" / f"{number}.jpg")
        original = number if number < 16 else 162770 + number if number < 18 else 182637
        lines.append(f"{number} {original} {original + 1:06d}.jpg")
    (out / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join(lines))
    return out


def celeba_config(source, out, **more):
    return IngestConfig(format="celebamask_hq", source=str(source), out=str(out), **more)


def test_celebamask_hq_parts_are_painted_at_their_own_size_and_images_are_untouched(celeba, raw, tmp_path):
    result = ingest.run(celeba_config(celeba, tmp_path / "out"))
    assert result["num_rows"] == {"train": 16, "val": 2, "test": 2} and result["num_quarantined"] == 0
    manifest = dataset.read_manifest(str(tmp_path / "out"))
    assert manifest.lineage["paint_order"] == "ids" and manifest.taxonomy.name == "celebamask_hq"
    truth = sorted(raw.glob("*/labels/*.png"))
    for split in SPLITS:
        for row in rows_of(tmp_path / "out", split):
            assert row["image"] == (celeba / "CelebA-HQ-img" / f"{int(row['id'])}.jpg").read_bytes()
            label = cv2.imdecode(np.frombuffer(row["label"], np.uint8), cv2.IMREAD_UNCHANGED)
            assert (label == cv2.imread(str(truth[int(row["id"])]), cv2.IMREAD_UNCHANGED)[::2, ::2]).all()


def test_a_tree_on_s3_gives_the_same_data_set_as_on_disk(celeba, tmp_path, s3):
    fs, path = storage.filesystem(f"{s3}/celeba")
    fs.put(str(celeba), path, recursive=True)
    local, remote = celeba_config(celeba, tmp_path / "out"), celeba_config(f"{s3}/celeba", f"{s3}/celeba-out")
    ingest.run(local)
    ingest.run(remote)
    manifests = [dataset.read_manifest(config.out) for config in (local, remote)]
    assert manifests[0].num_rows() == manifests[1].num_rows()
    rows = [{row["id"]: (row["image"], row["label"]) for row in rows_of(config.out)} for config in (local, remote)]
    assert rows[0] == rows[1]


def test_one_bad_part_costs_one_sample(celeba, tmp_path):
    source = tmp_path / "bad"
    shutil.copytree(celeba, source)
    folder = source / "CelebAMask-HQ-mask-anno/0"
    (folder / "00000_skin.png").write_bytes((folder / "00000_skin.png").read_bytes()[:90])
    cv2.imwrite(str(folder / "00001_skin.png"), np.zeros((16, 16), np.uint8))
    (folder / "00002_skin.png").write_bytes(b"")
    result = ingest.run(celeba_config(source, tmp_path / "out"))
    assert result["reasons"] == {"empty_file": 1, "label_size": 1, "undecodable": 1}
    assert sum(result["num_rows"].values()) == 17


def test_helen_takes_the_most_probable_class(raw, tmp_path):
    source = tmp_path / "helen"
    (source / "images").mkdir(parents=True)
    maps = np.random.default_rng(0).integers(0, 256, (4, 11, 64, 64), np.uint8)
    for number, image in enumerate(sorted(raw.glob("train/images/*.jpg"))[:4]):
        shutil.copy(image, source / "images" / f"{number}_1.jpg")
        folder = source / "labels" / f"{number}_1"
        folder.mkdir(parents=True)
        for part in range(11):
            cv2.imwrite(str(folder / f"{number}_1_lbl{part:02d}.png"), maps[number, part])
    for name, line in (("exemplars", "1 , 0_1\n2 , 1_1"), ("tuning", "1 , 2_1"), ("testing", "1 , 3_1")):
        (source / f"{name}.txt").write_text(line)
    result = ingest.run(IngestConfig(format="helen", source=str(source), out=str(tmp_path / "out")))
    assert result["num_rows"] == {"train": 2, "val": 1, "test": 1}
    assert dataset.read_manifest(str(tmp_path / "out")).taxonomy.name == "helen"
    for split in SPLITS:
        for row in rows_of(tmp_path / "out", split):
            label = cv2.imdecode(np.frombuffer(row["label"], np.uint8), cv2.IMREAD_UNCHANGED)
            assert (label == maps[int(row["id"][0])].argmax(0)).all()


def test_rows_that_look_mirrored_are_counted_and_listed_and_kept(raw, tmp_path):
    source = tmp_path / "mirrored"
    shutil.copytree(raw, source)
    mirrored = sorted(source.glob("train/images/*.jpg"))[:2]
    for image in mirrored:
        label = source / "train/labels" / f"{image.stem}.png"
        for path in (image, label):
            cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, ::-1])
    result = ingest.run(pairs(source, tmp_path / "out"))
    assert result["remarks"] == {"looks_mirrored": 2} and result["num_rows"]["train"] == 16
    table = pq.read_table(tmp_path / "out" / "remarks" / "part-00000.parquet").to_pylist()
    assert [(row["source"], row["reason"]) for row in table] == [
        (f"train/{image.stem}", "looks_mirrored") for image in mirrored
    ]


def test_names_that_no_table_can_show_are_quarantined_escaped(raw, tmp_path):
    source = tmp_path / "names"
    shutil.copytree(raw, source)
    (source / "train/images/a\x1b[2J\udcff.jpg").write_bytes(b"x")
    ingest.run(pairs(source, tmp_path / "out"))
    assert quarantine(tmp_path / "out") == {"a\\x1b[2J\\udcff.jpg": "bad_name"}


def test_large_images_make_smaller_row_groups(raw, tmp_path, monkeypatch):
    size = np.mean([path.stat().st_size for path in raw.glob("*/images/*.jpg")])
    monkeypatch.setattr(pack, "_GROUP_BYTES", int(3.5 * size))
    ingest.run(pairs(raw, tmp_path / "out"))
    manifest = dataset.read_manifest(str(tmp_path / "out"))
    assert manifest.rows_per_group in (3, 4)
    files = [pq.ParquetFile(tmp_path / "out" / file.path) for file in manifest.splits["train"]]
    sizes = [file.metadata.row_group(n).num_rows for file in files for n in range(file.num_row_groups)]
    assert sizes[:3] == [manifest.rows_per_group] * 3 and sum(sizes) == 16
