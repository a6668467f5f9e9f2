"""Taxonomy files of one's own: what they may hold, and one sentence for everything that is wrong with them."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.taxonomy import IGNORE, LAPA, MAX_CLASSES, get_taxonomy, parse_mapping, parse_taxonomy, remap_lut

NAMES = st.lists(st.from_regex(r"\A[a-z]{1,8}\Z"), min_size=2, max_size=40, unique=True)
BEARDS = {
    "name": "beards",
    "classes": ["background", "skin", "left_eye", "right_eye", "beard"],
    "colors": {"beard": [120, 60, 0]},
    "pairs": [{"viewer_left": "left_eye", "viewer_right": "right_eye"}],
    "groups": {"eyes": ["left_eye", "right_eye"]},
    "relations": {"above": [[["left_eye", "right_eye"], ["beard"]]], "larger": {"skin": ["left_eye"]}},
    "mappings": {"old": {"ids": {0: "background", 7: "beard"}}, "cvat": {"colors": {"skin": [1, 2, 3]}}},
}


def test_a_file_gives_classes_colours_pairs_groups_relations_and_mappings():
    found = parse_taxonomy(BEARDS)
    assert found.classes == tuple(BEARDS["classes"]) and found.palette[4] == (120, 60, 0)
    assert found.sides == ((2, 3),) and found.groups == (("eyes", (2, 3)),)
    assert found.relations.above == (((2, 3), (4,)),) and found.relations.larger == ((1, (2,)),)
    assert found.mapping("old").ids == ((0, 0), (7, 4)) and found.mapping("cvat").colors == (((1, 2, 3), 1),)


@given(NAMES, st.randoms(use_true_random=False))
def test_every_taxonomy_survives_json_and_has_colours_of_its_own(names, random):
    pairs = [names[start : start + 2] for start in range(1, len(names) - 1, 2)]
    given_colors = {
        name: [random.randrange(256), 6 * number, 3] for number, name in enumerate(names) if number % 3 == 1
    }
    content = {
        "name": "any",
        "classes": names,
        "colors": given_colors,
        "pairs": [{"viewer_left": a, "viewer_right": b} if len(a) % 2 else {"sides_unknown": [a, b]} for a, b in pairs],
    }
    found = parse_taxonomy(content)
    assert parse_taxonomy(json.loads(json.dumps(found.to_dict()))) == found
    assert len(set(found.palette)) == found.num_classes
    assert all(list(found.palette[names.index(name)]) == color for name, color in given_colors.items())


def test_generated_colours_lie_well_apart():
    palette = parse_taxonomy({"name": "many", "classes": [f"c{n}" for n in range(30)]}).palette
    assert min(np.abs(np.subtract(a, b)).max() for a, b in combinations(palette, 2)) >= 42
    assert palette[0] == (0, 0, 0) and min(np.abs(np.subtract(color, 128)).max() for color in palette) >= 42


WRONG = {
    "no mapping": ([], "expected the keys name, classes"),
    "unknown key": (BEARDS | {"hats": 1}, "unknown key 'hats'"),
    "unknown key inside": (BEARDS | {"relations": {"below": []}}, "unknown key 'relations.below'"),
    "no classes": ({"name": "x"}, "classes: Field required"),
    "one class": (BEARDS | {"classes": ["background"]}, "classes: "),
    "a class twice": (BEARDS | {"classes": [*BEARDS["classes"], "skin"]}, "class 'skin' is there 2 times"),
    "too many classes": ({"name": "x", "classes": [f"c{n}" for n in range(MAX_CLASSES + 1)]}, "at most 255"),
    "a class that leads out": (BEARDS | {"classes": ["background", "../skin"]}, "classes.1"),
    "pair of no class": (
        BEARDS | {"pairs": [{"viewer_left": "left_eye", "viewer_right": "hat"}]},
        "pairs: 'hat' is no class",
    ),
    "half a pair": (BEARDS | {"pairs": [{"viewer_left": "left_eye"}]}, "a pair has `viewer_left` and `viewer_right`"),
    "a class in two pairs": (BEARDS | {"pairs": [{"sides_unknown": ["skin", "skin"]}]}, "class in `pairs` 'skin'"),
    "a colour twice": (BEARDS | {"colors": {"skin": [1, 1, 1], "beard": [1, 1, 1]}}, "color (1, 1, 1) is there 2"),
    "a colour of no class": (BEARDS | {"colors": {"hat": [1, 1, 1]}}, "colors: 'hat' is no class"),
    "a level of 256": (BEARDS | {"colors": {"skin": [1, 1, 256]}}, "colors.skin.2"),
    "group of no class": (BEARDS | {"groups": {"hats": ["hat"]}}, "groups.hats: 'hat' is no class"),
    "mapping of two kinds": (
        BEARDS | {"mappings": {"m": {"ids": {1: "skin"}, "classes": {"a": "skin"}}}},
        "a mapping has one of `ids`, `colors` and `classes`",
    ),
    "mapped to no class": (BEARDS | {"mappings": {"m": {"ids": {1: "hat"}}}}, "mappings.m: 'hat' is no class"),
    "a mapped colour twice": (
        BEARDS | {"mappings": {"m": {"colors": {"skin": [1, 1, 1], "beard": [1, 1, 1]}}}},
        "color in mappings.m (1, 1, 1)",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_whatever_is_wrong_with_a_file_is_one_sentence(kind):
    content, message = WRONG[kind]
    with pytest.raises(ValueError) as caught:
        parse_taxonomy(content)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_mapping_file_names_its_target_and_what_becomes_of_classes():
    source = parse_taxonomy(BEARDS)
    content = {"taxonomy": "lapa", "classes": {"beard": "skin", "left_eye": "left_eye"}}
    target, mapping = parse_mapping(content, get_taxonomy)
    lut = remap_lut(source, target, mapping)
    assert target == LAPA and lut[:5].tolist() == [0, 0, 4, 0, 1] and lut[IGNORE] == IGNORE
    with pytest.raises(ValueError, match="'hat', which is no class of beards"):
        remap_lut(source, *parse_mapping(content | {"classes": {"hat": "skin"}}, get_taxonomy))
    with pytest.raises(ValueError, match="'fur' is no class"):
        parse_mapping(content | {"classes": {"beard": "fur"}}, get_taxonomy)
    with pytest.raises(ValueError, match="unknown taxonomy 'cats'"):
        parse_mapping(content | {"taxonomy": "cats"}, get_taxonomy)
