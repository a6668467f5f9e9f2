"""The layouts of paired folders: names with suffixes, lists, Unicode forms, links, and several sources."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import UserError
from pipelines.ingest import pairing, split_lists
from tests.support.raw_trees import listed, tree


def pairs(source, **more):
    return listed(source, "pairs", taxonomy="lapa", **more)


def partners(listing):
    """The names of image and label of each sample, below the source, by id."""
    found = (sample for samples in listing.samples.values() for sample in samples)
    return {sample.id: tuple(uri.rsplit("/", 1)[-1] for uri in (sample.image, sample.label[0][1])) for sample in found}


def test_folders_without_splits_are_split_by_exact_shares(tmp_path):
    tree(tmp_path, *(f"images/{n}.jpg" for n in range(10)), *(f"labels/{n}.png" for n in range(10)))
    _, found, rejected = pairs(tmp_path, splits="train=.5,val=.3,test=.2")
    assert {split: len(ids) for split, ids in found.items()} == {"train": 5, "val": 3, "test": 2} and not rejected
    assert sorted(name for ids in found.values() for name in ids) == [str(n) for n in range(10)]


def test_folders_without_splits_are_split_by_a_file(tmp_path):
    tree(tmp_path, "images/a.jpg", "labels/a.png", "images/b c.jpg", "labels/b c.png", "images/d.jpg", "labels/d.png")
    (tmp_path / "mine.txt").write_text("a test\nb c valid\n")
    listing, found, rejected = pairs(tmp_path, split_file=str(tmp_path / "mine.txt"))
    assert found == {"train": [], "val": ["b c"], "test": ["a"]} and rejected == [("d.jpg", "no_split")]
    assert not listing.ignored


def test_folders_of_splits_below_images_and_labels_are_folders_of_splits(tmp_path):
    tree(tmp_path, "images/train/a.jpg", "labels/train/a.png", "images/valid/b.jpg", "labels/valid/b.png")
    assert pairs(tmp_path)[1] == {"train": ["train/a"], "val": ["val/b"], "test": []}


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_the_validation_split_has_several_names(tmp_path, name):
    tree(tmp_path, f"{name}/images/a.jpg", f"{name}/labels/a.png", f"{name}/images/b.jpg", f"{name}/labels/b.png")
    assert pairs(tmp_path)[1]["val"] == ["val/a", "val/b"]
    (tmp_path / "valid_list.txt").write_text("images/a.jpg labels/a.png\n")
    listing, found, rejected = pairs(tmp_path)
    assert found["val"] == ["val/a"] and not rejected and listing.ignored == {".jpg": 1, ".png": 1}


def test_one_name_in_two_folders_of_a_split_is_one_id_too_many(tmp_path):
    tree(tmp_path, *(f"{split}/{kind}/a.png" for split in ("val", "valid", "train") for kind in ("images", "labels")))
    _, found, rejected = pairs(tmp_path)
    assert found == {"train": ["train/a"], "val": [], "test": []} and rejected == [("a.png", "duplicate_id")] * 4


@pytest.mark.parametrize("suffix", pairing.LABEL_SUFFIXES)
@pytest.mark.parametrize(
    "folders", [("images/", "labels/"), ("train/images/", "train/labels/"), ("", ""), ("images/",) * 2]
)
def test_suffixes_of_labels_are_recognized(tmp_path, folders, suffix):
    images, labels = folders
    tree(tmp_path, f"{images}x.jpg", f"{labels}x{suffix}.png", f"{images}y.jfif", f"{labels}y{suffix}.png")
    listing, _, rejected = pairs(tmp_path)
    assert sorted(partners(listing).values()) == [("x.jpg", f"x{suffix}.png"), ("y.jfif", f"y{suffix}.png")]
    assert not rejected and not listing.ignored


def test_another_suffix_of_labels_is_named(tmp_path):
    tree(tmp_path, "images/x.jpg", "labels/x_gt.png", "y.jpg", "y_gt.png")
    with pytest.raises(UserError, match=r"holds no pairs samples: .*image_without_label"):
        pairs(tmp_path)
    listing, _, rejected = pairs(tmp_path, label_suffix="_gt")
    assert partners(listing) == {"x": ("x.jpg", "x_gt.png"), "y": ("y.jpg", "y_gt.png")} and not rejected


def test_equal_names_are_partners_before_stripped_ones(tmp_path):
    tree(tmp_path, "images/a_mask.jpg", "labels/a_mask.png", "images/a.jpg", "labels/a.png", "labels/a_seg.png")
    listing, _, rejected = pairs(tmp_path)
    assert partners(listing) == {"a_mask": ("a_mask.jpg", "a_mask.png"), "a": ("a.jpg", "a.png")}
    assert rejected == [("a_seg.png", "label_without_image")]


def test_two_labels_with_suffixes_for_one_image_are_both_refused(tmp_path):
    tree(tmp_path, "images/a.jpg", "labels/a_mask.png", "labels/a_seg.png", "images/b.jpg", "labels/b_seg.png")
    listing, _, rejected = pairs(tmp_path)
    assert list(partners(listing)) == ["b"]
    assert rejected == [("a_mask.png", "duplicate_id"), ("a_seg.png", "duplicate_id")]


def test_relabeled_helen_has_suffixes_on_images_and_labels_in_the_folders_of_the_splits(tmp_path):
    for split, number in (("train", 1), ("train", 2), ("valid", 3), ("test", 4)):
        tree(tmp_path, f"{split}/123_{number}_image.jpg", f"{split}/123_{number}_label.png")
    tree(tmp_path, "train/9_image.jpg", "train/8_label.png", "preview.png", "train_list.log")
    listing, found, rejected = pairs(tmp_path)
    assert found == {"train": ["train/123_1", "train/123_2"], "val": ["val/123_3"], "test": ["test/123_4"]}
    assert partners(listing)["val/123_3"] == ("123_3_image.jpg", "123_3_label.png")
    assert rejected == [("8_label.png", "label_without_image"), ("9_image.jpg", "image_without_label")]
    assert listing.ignored == {".png": 1, ".log": 1}


def test_the_tree_of_the_authors_of_dml_csr_is_read_with_its_lists(tmp_path):
    for split in ("train", "valid", "test"):
        for name in ("a", "b"):
            tree(tmp_path, f"{split}/images/{name}.jpg", f"{split}/labels/{name}.png", f"{split}/edges/{name}.png")
        (tmp_path / f"{split}_list.txt").write_text("images/a.jpg labels/a.png\nimages/b.jpg labels/b.png\n")
    listing, found, rejected = pairs(tmp_path)
    assert found == {split: [f"{split}/a", f"{split}/b"] for split in ("train", "val", "test")} and not rejected
    assert partners(listing)["val/a"] == ("a.jpg", "a.png") and listing.ignored == {".png": 6}


def test_lists_limit_folders_without_splits_too(tmp_path):
    tree(tmp_path, *(f"images/{n}.jpg" for n in "abcd"), *(f"labels/{n}.png" for n in "abcd"))
    (tmp_path / "train_list.txt").write_text("images/a.jpg labels/a.png\nimages/b.jpg labels/b.png\n")
    (tmp_path / "valid_list.txt").write_text("images/c.jpg labels/c.png\n")
    listing, found, rejected = pairs(tmp_path)
    assert found == {"train": ["train/a", "train/b"], "val": ["val/c"], "test": []} and not rejected
    assert listing.ignored == {".jpg": 1, ".png": 1}


def test_lines_of_a_list_may_hold_spaces(tmp_path):
    names = ["a b", "c.jpg d", "e  f"]
    tree(tmp_path, *(f"train/images/{n}.jpg" for n in names), *(f"train/labels/{n}.PNG" for n in names))
    lines = [f"images/{n}.jpg{gap}labels/{n}.PNG" for n, gap in zip(names, (" ", "\t", "  "), strict=True)]
    (tmp_path / "train_list.txt").write_text("\n".join([*lines, "images/no.jpg x.jpg labels/no.png"]))
    listing, _, rejected = pairs(tmp_path)
    assert partners(listing) == {f"train/{n}": (f"{n}.jpg", f"{n}.PNG") for n in names}
    assert rejected == [("train_list.txt:4", "bad_line")]


NAMES = st.lists(st.sampled_from(["a", " ", "é", ".jpg", ".PNG", "labels/"]), max_size=8).map(
    lambda parts: f"x{''.join(parts)}y.png"
)


@given(names=st.tuples(NAMES, NAMES), gap=st.sampled_from([" ", "  ", "\t"]))
def test_a_line_of_a_list_is_cut_between_two_known_names(names, gap):
    known = {f"/raw/{name}": f"/raw/{name}" for name in names}
    cut = split_lists.cut_line(gap.join(names), "/raw/", known)
    assert cut is not None and tuple(map(str, cut)) == names


WORDS = st.text("aé_ü", min_size=1, max_size=4) | st.sampled_from(["a_mask", "a_seg", "é_label", "a_mask_mask"])
FORMS = st.sampled_from(["NFC", "NFD"])


@given(data=st.data(), names=st.sets(WORDS, min_size=1, max_size=6), flat=st.booleans(), by_list=st.booleans())
def test_each_label_is_paired_with_its_own_image(tmp_path_factory, data, names, flat, by_list):
    """Whatever the suffixes and the Unicode forms, if no two files have the same name."""
    folder = tmp_path_factory.mktemp("pairs")
    prefix, expected, taken = ("", "") if flat else ("train/images/", "train/labels/"), {}, set()
    for name in sorted(names):
        suffixes = pairing.LABEL_SUFFIXES if flat else ("", *pairing.LABEL_SUFFIXES)
        label = name + data.draw(st.sampled_from(suffixes))
        if label not in taken:
            taken.add(label)
            files = [f"{name}.jpg", f"{label}.png"]
            expected[name] = tuple(unicodedata.normalize(data.draw(FORMS), file) for file in files)
    for image, label in expected.values():
        tree(folder, prefix[0] + image, prefix[1] + label)
    if by_list and not flat:
        lines = [f"images/{image} labels/{label}" for image, label in expected.values()]
        (folder / "train_list.txt").write_text(unicodedata.normalize(data.draw(FORMS), "\n".join(lines)))
    listing, _, rejected = pairs(folder)
    assert partners(listing) == {f"{'' if flat else 'train/'}{name}": files for name, files in expected.items()}
    assert not rejected and not listing.ignored


def test_one_name_in_two_unicode_forms_is_one_id_too_many(tmp_path):
    tree(tmp_path, *(f"images/{unicodedata.normalize(form, 'é')}.jpg" for form in ("NFC", "NFD")), "labels/é.png")
    tree(tmp_path, "images/a.jpg", "labels/a.png")
    assert {reason for _, reason in pairs(tmp_path)[2]} == {"duplicate_id"}


def test_a_split_file_names_ids_in_any_unicode_form(tmp_path):
    tree(tmp_path, "images/e\u0301.jpg", "labels/\u00e9.png")
    (tmp_path / "mine.txt").write_bytes("\ufeffe\u0301 test\n".encode())
    assert pairs(tmp_path, split_file=str(tmp_path / "mine.txt"))[1]["test"] == ["\u00e9"]


# Links, and what is left over.


def test_links_to_folders_and_files_are_followed(tmp_path):
    elsewhere = tree(tmp_path / "elsewhere", "photos/a.jpg", "photos/b.jpg", "a.png", "b.png")
    source = tree(tmp_path / "source", "train/labels/b.png")
    (source / "train" / "images").symlink_to(elsewhere / "photos")
    (source / "train" / "labels" / "a.png").symlink_to(elsewhere / "a.png")
    listing, _, rejected = pairs(source)
    assert partners(listing) == {"train/a": ("a.jpg", "a.png"), "train/b": ("b.jpg", "b.png")} and not rejected
    assert all(sample.image.startswith(f"{source}/train/images/") for sample in listing.samples["train"])


def test_what_no_sample_has_is_counted_and_shown_by_kind(tmp_path, caplog):
    tree(tmp_path, "train/images/a.jpg", "train/labels/a.png", "LICENSE", "x.1234", "train/landmarks/a.txt")
    tree(tmp_path, "train/landmarks/b.TXT", "info.json", "train/depth/a.png")
    with caplog.at_level("INFO"):
        listing = pairs(tmp_path)[0]
    assert listing.ignored == {".txt": 2, "no suffix": 1, ".json": 1, ".png": 1, "other": 1}
    assert f"2 .txt (such as {tmp_path}/train/landmarks/a.txt)" in caplog.text
    assert f"1 .json (such as {tmp_path}/info.json)" in caplog.text


# Several sources.


def test_ids_of_several_sources_begin_with_their_names(tmp_path):
    for folder in ("one/lapa", "two/lapa", "more"):
        tree(tmp_path / folder, "train/images/a.jpg", "train/labels/a.png", "notes.txt")
    (tmp_path / "two/lapa/train_list.txt").write_text("images/a.jpg labels/a.png")
    source = f"{tmp_path}/one/lapa, {tmp_path}/two/lapa,{tmp_path}/more"
    listing, found, rejected = pairs(source)
    assert found["train"] == ["lapa-2/train/a", "lapa/train/a", "more/train/a"] and not rejected
    assert {sample.id: sample.image for sample in listing.samples["train"]} == {
        "lapa/train/a": f"{tmp_path}/one/lapa/train/images/a.jpg",
        "lapa-2/train/a": f"{tmp_path}/two/lapa/train/images/a.jpg",
        "more/train/a": f"{tmp_path}/more/train/images/a.jpg",
    }
    assert listing.ignored == {".txt": 3}


def test_shares_are_exact_in_each_source(tmp_path):
    for folder in ("a", "b"):
        tree(tmp_path / folder, *(f"{n}.jpg" for n in range(10)), *(f"{n}_seg.png" for n in range(10)))
    _, found, _ = listed(f"{tmp_path}/a,{tmp_path}/b", "face_synthetics")
    for folder in ("a/", "b/"):
        assert [sum(name.startswith(folder) for name in ids) for ids in found.values()] == [8, 1, 1]


def test_a_split_file_names_ids_of_several_sources_with_their_prefix_or_without(tmp_path):
    for folder in ("a", "b"):
        tree(tmp_path / folder, "images/x.jpg", "labels/x.png", "images/y.jpg", "labels/y.png")
    (tmp_path / "mine.txt").write_text("a/x test\nx val\ny train\n")
    _, found, _ = pairs(f"{tmp_path}/a,{tmp_path}/b", split_file=str(tmp_path / "mine.txt"))
    assert found == {"train": ["a/y", "b/y"], "val": ["b/x"], "test": ["a/x"]}


def test_a_source_without_samples_is_named(tmp_path):
    tree(tmp_path / "a", "images/x.jpg", "labels/x.png")
    tree(tmp_path / "b", "notes.txt")
    with pytest.raises(UserError, match=rf"{tmp_path}/b holds no pairs samples: expected .*; found 1 \.txt"):
        pairs(f"{tmp_path}/a,{tmp_path}/b")
