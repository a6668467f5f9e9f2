"""What a raw tree's names say: samples, splits and what is refused. No pixel is read."""

import pytest

from pipelines.config.commands import IngestConfig
from pipelines.errors import UserError
from pipelines.ingest import ingest, names, raw_files, splits
from tests.support.raw_trees import listed, tree

MAPPING = "idx     orig_idx  orig_file proj_md5\n0 119613 119614.jpg x\n1 162770 162771.jpg x\n2 182637 182638.jpg x\n"


@pytest.fixture
def celeba(tmp_path):
    for number in range(3):
        tree(tmp_path, f"CelebA-HQ-img/{number}.jpg")
        tree(tmp_path, *(f"CelebAMask-HQ-mask-anno/0/{number:05d}_{part}.png" for part in ("skin", "ear_r", "u_lip")))
    (tmp_path / splits.CELEBA_MAPPING).write_text(MAPPING)
    return tmp_path


def test_celebamask_hq_joins_the_parts_and_takes_celebas_split(celeba):
    listing, found, rejected = listed(celeba, "celebamask_hq")
    assert found == {"train": ["00000"], "val": ["00001"], "test": ["00002"]} and not rejected
    (sample,) = listing.samples["train"]
    assert sample.image.endswith("CelebA-HQ-img/0.jpg")
    assert [role for role, _ in sample.label] == ["skin", "u_lip", "ear_r"]


def test_the_partition_list_of_celeba_comes_before_the_numbers(celeba):
    (celeba / splits.CELEBA_PARTITION).write_text("119614.jpg 2\n162771.jpg 2\n182638.jpg 0\n")
    assert listed(celeba, "celebamask_hq")[1] == {"train": ["00002"], "val": [], "test": ["00000", "00001"]}


def test_bad_part_files_are_refused_and_the_rest_is_listed(celeba):
    folder = "CelebAMask-HQ-mask-anno"
    tree(celeba, f"{folder}/0/00000_moustache.png", f"{folder}/1/00001_skin.png", f"{folder}/9/00009_skin.png")
    tree(celeba, "CelebA-HQ-img/7.jpg", "CelebA-HQ-img/2.png", f"{folder}/README.png")
    _, found, rejected = listed(celeba, "celebamask_hq")
    assert found == {"train": ["00000"], "val": [], "test": []}
    assert rejected == [
        ("00000_moustache.png", "unknown_part"),
        ("00001_skin.png", "duplicate_id"),
        ("00001_skin.png", "duplicate_id"),
        ("00009_skin.png", "label_without_image"),
        ("2.jpg", "duplicate_id"),
        ("2.png", "duplicate_id"),
        ("7.jpg", "image_without_label"),
    ]


def test_the_full_mapping_must_give_the_published_counts(celeba):
    header = MAPPING.splitlines()[0]
    counts = [(0, 24183), (splits.CELEBA_FIRST_VAL, 2993), (splits.CELEBA_FIRST_TEST, 2824)]
    originals = [start + number for start, count in counts for number in range(count)]
    lines = [f"{index} {original} {original + 1:06d}.jpg x" for index, original in enumerate(originals)]
    mapping = celeba / splits.CELEBA_MAPPING
    mapping.write_text("\n".join([header, *lines]))
    assert sum(map(len, listed(celeba, "celebamask_hq")[1].values())) == 3
    mapping.write_text("\n".join([header, *lines[:-1], "29999 5 000006.jpg x"]))
    with pytest.raises(UserError, match="published split"):
        listed(celeba, "celebamask_hq")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "--split-file"), ("idx orig\n0 1\n", "line 2"), ("idx orig_idx orig_file\n0 x y\n", "line 2")],
)
def test_a_mapping_that_is_missing_or_damaged_is_one_sentence(celeba, content, message):
    mapping = celeba / splits.CELEBA_MAPPING
    mapping.unlink()
    if content is not None:
        mapping.write_text(content)
    with pytest.raises(UserError, match=message):
        listed(celeba, "celebamask_hq")


def test_a_split_file_replaces_the_mapping(celeba):
    (celeba / splits.CELEBA_MAPPING).unlink()
    (celeba / "mine.txt").write_text("00000 test\n00002 train\n")
    _, found, rejected = listed(celeba, "celebamask_hq", split_file=str(celeba / "mine.txt"))
    assert found == {"train": ["00002"], "val": [], "test": ["00000"]} and rejected == [("1.jpg", "no_split")]


@pytest.fixture
def helen(tmp_path):
    for name in ("100_1", "200_1", "300_2", "400_1"):
        tree(tmp_path, f"images/{name}.jpg", *(f"labels/{name}/{name}_lbl{part:02d}.png" for part in range(11)))
    (tmp_path / "exemplars.txt").write_text("1 , 100_1\n2 , 400_1\n")
    (tmp_path / "tuning.txt").write_text("1 , 200_1\n")
    (tmp_path / "testing.txt").write_text("1 , 300_2\n2 , 400_1\n")
    return tmp_path


def test_helen_is_split_by_its_lists_and_what_is_in_two_of_them_is_refused(helen):
    listing, found, rejected = listed(helen, "helen")
    assert found == {"train": ["100_1"], "val": ["200_1"], "test": ["300_2"]}
    assert rejected == [("400_1.jpg", "no_split")]
    assert [role for role, _ in listing.samples["train"][0].label] == [f"{part:02d}" for part in range(11)]


def test_helen_needs_all_eleven_maps(helen):
    (helen / "labels/100_1/100_1_lbl07.png").unlink()
    _, found, rejected = listed(helen, "helen")
    assert found["train"] == [] and ("100_1.jpg", "incomplete_label") in rejected


def test_lapa_is_paired_folders_with_landmarks_left_alone(tmp_path):
    tree(tmp_path, "train/images/a.jpg", "train/labels/a.png", "train/landmarks/a.txt")
    tree(tmp_path, "val/images/b.jpg", "val/labels/b.png", "test/images/b.jpg", "test/labels/b.png")
    _, found, rejected = listed(tmp_path, "lapa")
    assert found == {"train": ["train/a"], "val": ["val/b"], "test": ["test/b"]} and not rejected


def test_names_that_lead_out_or_cannot_be_shown_are_refused(tmp_path):
    tree(tmp_path, "train/images/a.jpg", "train/labels/a.png", "train/images/b\n.jpg", "train/labels/b\n.png")
    tree(tmp_path, "train/images/\x1b[31mred.jpg", "train/images/\udcff.jpg")
    _, found, rejected = listed(tmp_path, "lapa")
    assert found["train"] == ["train/a"]
    assert [reason for _, reason in rejected] == ["bad_name"] * 4


def test_a_key_that_leads_out_of_its_folder_is_refused(monkeypatch):
    keys = [
        f"s3://bucket/raw/train/{kind}/{name}" for kind in ("images", "labels") for name in ("a.png", "../../b.png")
    ]
    monkeypatch.setattr(names.storage, "list_pages", lambda uri: [keys])  # SeaweedFS accepts no such key, S3 does
    monkeypatch.setattr(names, "list_uris", lambda uri: [])
    _, found, rejected = listed("s3://bucket/raw", "lapa")
    assert found["train"] == ["train/a"] and rejected == [("b.png", "bad_name")] * 2


def test_lines_of_a_list_that_cannot_be_used_are_refused_and_the_rest_is_read(tmp_path):
    tree(tmp_path, "train/images/a.jpg", "train/labels/a.png", "train/labels/b.png")
    lines = [
        "images/a.jpg labels/a.png",
        "images/a.jpg labels/a.png",
        "images/a.jpg labels/b.png",
        "../x.jpg y.png",
        "one",
    ]
    (tmp_path / "train_list.txt").write_text("\n".join(lines))
    _, found, rejected = listed(tmp_path, "lapa")
    assert found["train"] == ["train/a"]
    assert rejected == [
        ("train_list.txt:3", "duplicate_id"),
        ("train_list.txt:4", "bad_line"),
        ("train_list.txt:5", "bad_line"),
    ]


@pytest.mark.parametrize("kind", ["lapa", "celebamask_hq", "helen", "face_synthetics"])
def test_a_wrong_folder_is_told_what_was_expected_and_what_was_found(tmp_path, kind):
    tree(tmp_path, "notes/a.txt", "notes/b.txt", "c.csv")
    with pytest.raises(UserError) as caught:
        listed(tmp_path, kind)
    message = str(caught.value)
    assert "expected" in message and "found 2 .txt, 1 .csv (such as c.csv, notes/a.txt" in message


def test_what_was_found_is_told_on_one_line(tmp_path):
    tree(tmp_path, "a\nb\x1b[2J.txt")
    with pytest.raises(UserError) as caught:
        listed(tmp_path, "helen")
    assert "a\\nb\\x1b[2J.txt" in str(caught.value) and str(caught.value).isprintable()


def test_an_empty_folder_holds_nothing(tmp_path):
    with pytest.raises(UserError, match="found nothing"):
        listed(tmp_path, "helen")


def test_lists_that_were_read_are_not_left_over(celeba, tmp_path_factory):
    (celeba / splits.CELEBA_PARTITION).write_text("119614.jpg 0\n162771.jpg 0\n182638.jpg 0\n")
    assert listed(celeba, "celebamask_hq")[0].ignored == {}
    file = tmp_path_factory.mktemp("mine") / "mine.txt"
    file.write_text("00000 test\n")
    assert listed(celeba, "celebamask_hq", split_file=str(file))[0].ignored == {".txt": 2}, "they were not read"


def test_published_lists_are_those_of_each_source(helen, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("100_1", "200_1"):
        tree(other, f"images/{name}.jpg", *(f"labels/{name}/{name}_lbl{part:02d}.png" for part in range(11)))
    for file, name in (("exemplars.txt", "200_1"), ("tuning.txt", "100_1"), ("testing.txt", "5_1")):
        (other / file).write_text(f"1 , {name}\n")
    _, found, _ = listed(f"{helen},{other}", "helen")
    assert found["train"] == sorted([f"{helen.name}/100_1", f"{other.name}/200_1"])


def test_files_of_every_suffix_of_images_are_listed(tmp_path):
    names = ["a.jfif", "b.JPG", "c.avif", "d.heic", "e.heif", "f.txt"]
    tree(tmp_path, *names)
    assert raw_files.list_images(str(tmp_path)) == [f"{tmp_path}/{name}" for name in names[:-1]]


# Faces without labels.


def test_images_in_any_folders_are_named_by_their_paths(tmp_path):
    tree(tmp_path, "a/1.jpg", "a/1.png", "b/c/2.webp", "3.jpeg", "notes.txt")
    _, found, rejected = listed(tmp_path, "images", splits={"val": 1})
    assert found == {"train": [], "val": ["3", "b/c/2"], "test": []}
    assert rejected == [("1.jpg", "duplicate_id"), ("1.png", "duplicate_id")]


def test_first_folders_name_the_splits_of_images_if_there_are_any(tmp_path):
    tree(tmp_path, "train/x/1.jpg", "valid/2.jpg", "val/3.jpg", "test/4.jpg", "others/train/5.jpg")
    _, found, rejected = listed(tmp_path, "images")
    assert found == {"train": ["train/x/1"], "val": ["val/3", "valid/2"], "test": ["test/4"]}
    assert rejected == [("5.jpg", "no_split")]


@pytest.mark.parametrize(
    ("option", "value"), [("taxonomy", "lapa"), ("mapping", "farl"), ("colors", "/x.yaml"), ("remap_to", "lapa")]
)
def test_options_about_labels_are_refused_for_faces_without_labels(tmp_path, option, value):
    tree(tmp_path, "1.jpg")
    config = IngestConfig(format="images", source=str(tmp_path), out="/out", **{option: value})
    name = option.replace("_", "-")
    with pytest.raises(UserError, match=rf"^--{name}: the faces of .* have no labels; omit it$"):
        ingest.open_source(config, f"{tmp_path}/listing")
