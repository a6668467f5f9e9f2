"""Labels whose ids are those of another public order contradict the relations of a face; right labels do not."""

import numpy as np
import pytest

from dmlcsr.relations import Agreement, PartPositions, agreements, mapping_lut
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ, IGNORE


def numbered_as(order, label):
    """The label with the ids of another order."""
    if not order:
        return label
    inverse = np.full(256, IGNORE, np.uint8)
    for source, part in CELEBAMASK_HQ.mapping(order).ids:
        inverse[part] = source
    return inverse[label]


@pytest.mark.parametrize("order", ["", "bisenet", "farl"])
def test_the_right_order_violates_least(order):
    totals = {}
    for index in range(40):
        label = numbered_as(order, render_face(3, index, 96).label)
        for name, found in agreements(PartPositions.of(label), CELEBAMASK_HQ).items():
            totals[name] = totals.get(name, Agreement(0, 0)) + found
    assert min(totals, key=lambda name: totals[name].violated_fraction) == order
    assert totals[order].violated_fraction < 0.02 and totals[order].num_checked > 400
    assert all(found.violated_fraction > 0.05 for name, found in totals.items() if name != order)


def test_what_is_not_visible_is_not_checked():
    empty = agreements(PartPositions.of(np.zeros((8, 8), np.uint8)), CELEBAMASK_HQ)
    assert set(empty.values()) == {Agreement(0, 0)} and empty[""].violated_fraction == 0.0


def test_translated_sums_are_those_of_the_translated_label():
    label = render_face(1, 5, 64).label
    lut = mapping_lut(CELEBAMASK_HQ.mapping("farl"))
    direct, translated = PartPositions.of(lut[label]), PartPositions.of(label).translated(lut)
    assert all(np.array_equal(a, b) for a, b in zip(direct, translated, strict=True))
