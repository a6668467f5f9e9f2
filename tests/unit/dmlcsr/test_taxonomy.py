"""The published taxonomies are those of the papers and releases, value by value; docs/data.md names the sources."""

import json

import numpy as np
import pytest

from dmlcsr.taxonomy import (
    CELEBAMASK_HQ,
    HELEN,
    IGNORE,
    LAPA,
    TAXONOMIES,
    get_taxonomy,
    match,
    parse_taxonomy,
    remap_lut,
)

ALL = list(TAXONOMIES.values())
PUBLISHED_CLASSES = {
    "lapa": "background skin left_brow right_brow left_eye right_eye nose upper_lip inner_mouth lower_lip hair",
    "helen": "background skin left_brow right_brow left_eye right_eye nose upper_lip inner_mouth lower_lip hair",
    "celebamask_hq": "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat "
    "ear_r neck_l neck cloth",
    "face_synthetics": "background skin nose right_eye left_eye right_brow left_brow right_ear left_ear mouth_interior "
    "top_lip bottom_lip neck hair beard clothing glasses headwear facewear",
}
PUBLISHED_PAIRS = {
    "lapa": ((2, 3), (4, 5)),
    "helen": ((2, 3), (4, 5)),
    "celebamask_hq": ((4, 5), (6, 7), (8, 9)),
    "face_synthetics": ((3, 4), (5, 6), (7, 8)),
}
VIEWERS_LEFT = {
    "lapa": {"left_brow", "left_eye"},
    "helen": set(),  # not verified
    "celebamask_hq": {"r_eye", "r_brow", "r_ear"},
    "face_synthetics": {"left_eye", "left_brow", "left_ear"},
}
MAPPED = {
    "bisenet": "background skin l_brow r_brow l_eye r_eye eye_g l_ear r_ear ear_r nose mouth u_lip l_lip neck neck_l "
    "cloth hair hat",
    "farl": "background neck skin cloth l_ear r_ear l_brow r_brow l_eye r_eye nose mouth l_lip u_lip hair eye_g hat "
    "ear_r neck_l",
}
TO_LAPA = {
    "celebamask_hq": {
        "skin": "skin", "nose": "nose", "hair": "hair", "eye_g": "skin", "l_brow": "right_brow", "r_brow": "left_brow",
        "l_eye": "right_eye", "r_eye": "left_eye", "u_lip": "upper_lip", "mouth": "inner_mouth", "l_lip": "lower_lip",
    },
    "face_synthetics": {
        "skin": "skin", "nose": "nose", "hair": "hair", "beard": "skin", "glasses": "skin", "left_brow": "left_brow",
        "right_brow": "right_brow", "left_eye": "left_eye", "right_eye": "right_eye", "top_lip": "upper_lip",
        "mouth_interior": "inner_mouth", "bottom_lip": "lower_lip",
    },
}  # fmt: skip


@pytest.mark.parametrize("taxonomy", ALL, ids=lambda t: t.name)
def test_classes_pairs_and_sides_are_the_published_ones(taxonomy):
    assert " ".join(taxonomy.classes) == PUBLISHED_CLASSES[taxonomy.name]
    assert taxonomy.flip_pairs == PUBLISHED_PAIRS[taxonomy.name]
    assert {taxonomy.classes[left] for left, _ in taxonomy.sides} == VIEWERS_LEFT[taxonomy.name]
    assert len(set(taxonomy.palette)) == len(taxonomy.palette) == taxonomy.num_classes


@pytest.mark.parametrize("taxonomy", ALL, ids=lambda t: t.name)
def test_flip_swaps_exactly_the_pairs_and_twice_is_the_identity(taxonomy):
    lut = taxonomy.flip_lut()
    assert (lut[lut] == np.arange(256)).all()
    moved = {(index, int(lut[index])) for index in range(256) if lut[index] > index}
    assert moved == set(PUBLISHED_PAIRS[taxonomy.name])


def test_helen_pools_mouth_and_pairs():
    names = {group.name: [HELEN.classes[part] for part in group.ids] for group in HELEN.groups}
    assert names == {
        "brows": ["left_brow", "right_brow"],
        "eyes": ["left_eye", "right_eye"],
        "nose": ["nose"],
        "mouth": ["upper_lip", "inner_mouth", "lower_lip"],
    }


@pytest.mark.parametrize("name", MAPPED)
def test_known_foreign_orders_are_the_published_ones(name):
    ids = CELEBAMASK_HQ.mapping(name).ids
    assert [source for source, _ in ids] == list(range(19))
    assert " ".join(CELEBAMASK_HQ.classes[part] for _, part in ids) == MAPPED[name]


@pytest.mark.parametrize("name", TO_LAPA)
def test_a_remap_to_lapa_keeps_ignore_and_the_sides_as_the_viewer_sees_them(name):
    source = get_taxonomy(name)
    lut = remap_lut(source, LAPA)
    wanted = [LAPA.classes.index(TO_LAPA[name].get(part, "background")) for part in source.classes]
    assert lut[: len(wanted)].tolist() == wanted
    assert set(lut[len(wanted) :]) == {IGNORE}
    for part in range(source.num_classes):
        if lut[part] and (side := source.side_of(part)):
            assert LAPA.side_of(int(lut[part])) == side


def test_a_remap_that_is_not_defined_is_an_error():
    with pytest.raises(ValueError, match="no mapping from lapa to celebamask_hq"):
        remap_lut(LAPA, CELEBAMASK_HQ)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="lapa"):
        get_taxonomy("lappa")
    with pytest.raises(ValueError, match="no mapping 'zhihu'; known are bisenet, farl"):
        CELEBAMASK_HQ.mapping("zhihu")


def swapped(taxonomy):
    content = taxonomy.to_dict()
    for pair in content["pairs"]:
        pair["viewer_left"], pair["viewer_right"] = pair["viewer_right"], pair["viewer_left"]
    return parse_taxonomy(content)


def test_taxonomies_match_by_what_their_ids_mean():
    assert (
        match(LAPA, LAPA) == match(CELEBAMASK_HQ, parse_taxonomy(CELEBAMASK_HQ.to_dict() | {"name": "ours"})) == "same"
    )
    assert match(LAPA, HELEN) == match(HELEN, LAPA) == "sides unknown"
    assert match(LAPA, swapped(LAPA)) == "sides differ"
    assert match(LAPA, CELEBAMASK_HQ) == "classes differ"
    assert match(LAPA, parse_taxonomy(LAPA.to_dict() | {"pairs": []})) == "classes differ"


@pytest.mark.parametrize("taxonomy", ALL, ids=lambda t: t.name)
def test_a_taxonomy_survives_json(taxonomy):
    assert parse_taxonomy(json.loads(json.dumps(taxonomy.to_dict()))) == taxonomy


def test_parts_on_one_side_have_one_colour_in_all_taxonomies():
    colors = {}
    for taxonomy in ALL:
        for pair in taxonomy.sides:
            kind = taxonomy.classes[pair[0]].rpartition("_")[2]
            for side, part in zip(("left", "right"), pair, strict=True):
                colors.setdefault((kind, side), set()).add(taxonomy.palette[part])
    assert len(colors) == 6 and all(len(found) == 1 for found in colors.values())


def test_colours_of_unknown_ids_are_grey():
    colours = LAPA.colorize(np.array([[0, 1, IGNORE]], np.uint8))
    assert colours.tolist() == [[[0, 0, 0], list(LAPA.palette[1]), [128, 128, 128]]]
