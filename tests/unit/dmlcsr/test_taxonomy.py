import numpy as np
import pytest

from dmlcsr.taxonomy import CELEBAMASK_HQ, FACE_SYNTHETICS, HELEN, IGNORE, LAPA, TAXONOMIES, get_taxonomy, remap_lut

ALL = list(TAXONOMIES.values())


@pytest.mark.parametrize("taxonomy", ALL, ids=lambda t: t.name)
def test_every_class_has_its_own_name_and_colour(taxonomy):
    assert len(set(taxonomy.classes)) == len(taxonomy.palette) == len(set(taxonomy.palette)) == taxonomy.num_classes
    assert taxonomy.classes[0] == "background"


@pytest.mark.parametrize("taxonomy", ALL, ids=lambda t: t.name)
def test_flip_swaps_exactly_the_pairs_and_twice_is_the_identity(taxonomy):
    lut = taxonomy.flip_lut()
    assert (lut[lut] == np.arange(256)).all()
    moved = {index for index in range(256) if lut[index] != index}
    assert moved == {index for pair in taxonomy.flip_pairs for index in pair}
    for a, b in taxonomy.flip_pairs:
        sides = [{"l": "", "r": "", "left": "", "right": ""}.get(n.split("_")[0]) for n in (taxonomy.classes[a],)]
        assert sides == [""] and taxonomy.classes[a].split("_", 1)[1] == taxonomy.classes[b].split("_", 1)[1]


@pytest.mark.parametrize("taxonomy", ALL, ids=lambda t: t.name)
def test_sides_name_the_viewers_left_first(taxonomy):
    assert {frozenset(pair) for pair in taxonomy.sides} == {frozenset(pair) for pair in taxonomy.flip_pairs}
    for left, right in taxonomy.sides:
        assert taxonomy.classes[left].startswith("l") and taxonomy.classes[right].startswith("r")


def test_class_counts_are_the_published_ones():
    assert [t.num_classes for t in (LAPA, HELEN, CELEBAMASK_HQ, FACE_SYNTHETICS)] == [11, 11, 19, 19]


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="lapa"):
        get_taxonomy("lappa")


def test_a_remap_keeps_ignore_and_sides_as_the_viewer_sees_them():
    lut = remap_lut(FACE_SYNTHETICS, LAPA)
    assert lut[IGNORE] == IGNORE
    # Measured on the published sample: id 3, "right eye", is on the viewer's right, as it is in LaPa.
    assert lut[FACE_SYNTHETICS.classes.index("right_eye")] == LAPA.classes.index("right_eye")
    assert lut[FACE_SYNTHETICS.classes.index("neck")] == 0
    assert set(lut) <= {*range(LAPA.num_classes), IGNORE}


def test_a_remap_that_is_not_defined_is_an_error():
    with pytest.raises(ValueError, match="no remap lapa -> celebamask_hq"):
        remap_lut(LAPA, CELEBAMASK_HQ)


def test_colours_of_unknown_ids_are_grey():
    colours = LAPA.colorize(np.array([[0, 1, IGNORE]], np.uint8))
    assert colours.tolist() == [[[0, 0, 0], list(LAPA.palette[1]), [128, 128, 128]]]
