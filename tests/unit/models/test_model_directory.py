"""Model directories on storage, and which data sets a model fits."""

from dataclasses import replace

import pytest
import torch

from dmlcsr.model import DMLCSR, FaceParser
from dmlcsr.taxonomy import CELEBAMASK_HQ, HELEN, LAPA, parse_taxonomy
from pipelines.config.training import TrainConfig
from pipelines.errors import UserError
from pipelines.models import model_directory, setup
from tests.support.networks import card

OURS = {"name": "ours", "classes": ["background", "skin", "left_eye", "right_eye", "beard"]}
SIDED = {"pairs": [{"viewer_left": "left_eye", "viewer_right": "right_eye"}]}
SWAPPED = {"pairs": [{"viewer_left": "right_eye", "viewer_right": "left_eye"}]}


def test_a_model_carries_a_taxonomy_that_no_release_knows(tmp_path):
    described = card(taxonomy=parse_taxonomy(OURS | SIDED))
    model_directory.write_model(str(tmp_path), FaceParser(described.architecture), described)
    parser, found = model_directory.read_model(str(tmp_path))
    assert found.taxonomy == described.taxonomy and parser.architecture.num_classes == 5


def test_a_model_of_lapa_fits_helen_with_a_warning_about_sides(caplog):
    model_directory.require_taxonomy("m", card(taxonomy=LAPA), "d", LAPA)
    assert not caplog.records
    model_directory.require_taxonomy("m", card(taxonomy=LAPA), "d", HELEN)
    assert "does not say which part of a pair is on the viewer's left" in caplog.text


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (parse_taxonomy(OURS | SWAPPED), "left and right the other way round"),
        (parse_taxonomy(OURS), "knows the classes of ours"),  # without pairs a mirrored image keeps its ids
        (CELEBAMASK_HQ, "knows the classes of ours, the data set d has those of celebamask_hq"),
    ],
)
def test_other_classes_pairs_or_sides_are_refused(other, message):
    with pytest.raises(UserError, match=message):
        model_directory.require_taxonomy("m", card(taxonomy=parse_taxonomy(OURS | SIDED)), "d", other)


def test_a_training_keeps_the_classifier_of_a_model_of_the_same_classes_under_another_name(tmp_path):
    described = card(taxonomy=LAPA)
    model_directory.write_model(str(tmp_path), FaceParser(described.architecture), described)
    classifier = "parsing_head.classifier."
    for taxonomy, kept in ((replace(LAPA, name="ours"), True), (HELEN, True), (CELEBAMASK_HQ, False)):
        weights = setup.starting_weights(str(tmp_path), taxonomy)
        assert any(name.startswith(classifier) for name in weights) == kept


def test_a_training_begins_with_the_edge_heads_of_a_model_that_has_them(tmp_path):
    network = DMLCSR(card(taxonomy=LAPA).architecture)
    model_directory.write_model(str(tmp_path), network, card(taxonomy=LAPA))
    config = TrainConfig(data="/unused", out="/unused", init=str(tmp_path), model={"width": 0.125}, seed=7)
    begun = setup.build_network(config, LAPA).state_dict()
    assert all(torch.equal(value, begun[name]) for name, value in network.state_dict().items())
    other = setup.starting_weights(str(tmp_path), parse_taxonomy(OURS))
    assert {name.partition(".")[0] for name in other} >= {"encoder", "edge_head"}
    assert not any(name.startswith(("edge_head.binary", "parsing_head.classifier")) for name in other)
    (tmp_path / "edge_head.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"edge_head.safetensors does not belong"):
        setup.build_network(config, LAPA)
