"""Taxonomies, mappings and tables of colors in files that users name on the command line."""

import json
import re

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dmlcsr.taxonomy import CELEBAMASK_HQ, FACE_SYNTHETICS, LAPA, TAXONOMIES
from pipelines.config import taxonomies
from pipelines.errors import UserError
from tests.support.commands import ROOT

OURS = {
    "name": "ours",
    "classes": ["background", "skin", "beard"],
    "mappings": {"celebamask_hq": {"classes": {"skin": "skin"}}},
}


@pytest.fixture
def ours(tmp_path):
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump(OURS))
    return path


def test_a_name_or_a_file_names_a_taxonomy(ours):
    assert all(taxonomies.read_taxonomy(taxonomies.name_or_uri(name)) is TAXONOMIES[name] for name in TAXONOMIES)
    assert taxonomies.read_taxonomy(taxonomies.name_or_uri(str(ours))).classes == ("background", "skin", "beard")
    with pytest.raises(ValueError, match=r"unknown taxonomy 'cats'; known are .*, or give a file that ends with .yaml"):
        taxonomies.name_or_uri("cats")


def test_the_example_of_the_documentation_is_a_taxonomy(tmp_path):
    (example,) = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "data.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    found = taxonomies.read_taxonomy(str(tmp_path / "example.yaml"))
    assert found.num_classes == 6 and [mapping.name for mapping in found.mappings] == ["old", "painted", "lapa"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "while parsing"),
        ("name: &a x\nclasses: [*a, b]", "aliases are not allowed"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        (json.dumps(OURS | {"hats": 1}), "unknown key 'hats'"),
        ("\x00", "special characters are not allowed"),
    ],
)
def test_a_damaged_file_is_one_sentence_that_names_it(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        taxonomies.read_taxonomy(str(path))
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_labels_are_remapped_by_a_known_mapping_a_taxonomy_file_or_a_mapping_file(ours, tmp_path):
    target, lut = taxonomies.read_remap("lapa", FACE_SYNTHETICS)
    assert target is LAPA and lut[FACE_SYNTHETICS.classes.index("beard")] == LAPA.classes.index("skin")
    target, lut = taxonomies.read_remap(str(ours), CELEBAMASK_HQ)
    assert target.name == "ours" and set(lut[:19]) == {0, 1} and lut[1] == 1
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(yaml.safe_dump({"taxonomy": str(ours), "classes": {"hair": "beard"}}))
    target, lut = taxonomies.read_remap(str(mapping), CELEBAMASK_HQ)
    assert target.name == "ours" and lut[CELEBAMASK_HQ.classes.index("hair")] == 2 and lut[1] == 0
    with pytest.raises(UserError, match="--remap-to lapa: no mapping from helen to lapa"):
        taxonomies.read_remap("lapa", TAXONOMIES["helen"])
    mapping.write_text("[1, 2]")
    with pytest.raises(UserError, match="expected a taxonomy, or a mapping"):
        taxonomies.read_remap(str(mapping), CELEBAMASK_HQ)


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nskin:250,50,83::\n\nhair:51,221,255::\n"


def test_a_table_of_colours_is_cvats_file_or_yaml(tmp_path):
    cvat, own = tmp_path / "labelmap.txt", tmp_path / "colors.yaml"
    cvat.write_text(LABELMAP)
    own.write_text("background: [0, 0, 0]\nskin: [250, 50, 83]\nhair: [[51, 221, 255]]\n")
    wanted = (((0, 0, 0), 0), ((250, 50, 83), 1), ((51, 221, 255), 10))
    assert taxonomies.read_colors(str(cvat), LAPA).colors == taxonomies.read_colors(str(own), LAPA).colors == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("skin:1,2::", "line 1: expected `class:r,g,b::`"),
        ("skin:1,2,300::", "colors.skin.0.2"),
        ("fur:1,2,3::", "'fur' is no class"),
        ("skin:1,2,3::\nhair:1,2,3::", "color in mappings.colors (1, 2, 3) is there 2 times"),
        ("", "a mapping has one of"),
    ],
)
def test_a_damaged_table_of_colours_is_one_sentence_that_names_it(tmp_path, text, message):
    path = tmp_path / "labelmap.txt"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        taxonomies.read_colors(str(path), LAPA)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=8) | st.sampled_from(LAPA.classes),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*OURS, *LAPA.classes, "ids"]), inner),
    max_leaves=12,
)


@given(VALUES)
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(json.dumps(OURS | content if isinstance(content, dict) else content))
    for read in (
        taxonomies.read_taxonomy,
        lambda uri: taxonomies.read_remap(uri, LAPA),
        lambda uri: taxonomies.read_colors(uri, LAPA),
    ):
        try:
            read(str(path))
        except UserError as error:
            assert "\n" not in str(error)


@given(st.text(max_size=60))
def test_whatever_a_labelmap_holds_it_is_read_or_refused(text):
    try:
        found = taxonomies.labelmap(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert all(np.shape(colors)[1:] == (3,) for colors in found.values())
