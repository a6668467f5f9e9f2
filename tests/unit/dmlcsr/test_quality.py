import numpy as np
import pytest

from dmlcsr.quality import looks_mirrored
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ, HELEN, TAXONOMIES


@pytest.mark.parametrize("index", range(12))
def test_a_mirrored_label_whose_ids_were_not_swapped_looks_mirrored(index):
    label = render_face(0, index, 96).label
    mirrored = np.ascontiguousarray(label[:, ::-1])
    assert not looks_mirrored(label, CELEBAMASK_HQ)
    assert looks_mirrored(mirrored, CELEBAMASK_HQ)
    assert not looks_mirrored(CELEBAMASK_HQ.flip_lut()[mirrored], CELEBAMASK_HQ)


@pytest.mark.parametrize("taxonomy", [t for t in TAXONOMIES.values() if t.sides], ids=lambda t: t.name)
def test_a_face_without_pairs_does_not(taxonomy):
    label = np.zeros((20, 20), np.uint8)
    assert not looks_mirrored(label, taxonomy)
    label[:, 15:] = taxonomy.sides[0][0]  # a single eye
    assert not looks_mirrored(label, taxonomy)
    label[:, :5] = taxonomy.sides[0][1]
    assert looks_mirrored(label, taxonomy)


def test_where_sides_are_unknown_nothing_looks_mirrored():
    label = np.zeros((20, 20), np.uint8)
    label[:, :5], label[:, 15:] = HELEN.flip_pairs[0]
    assert not looks_mirrored(label, HELEN) and not looks_mirrored(label[:, ::-1], HELEN)
