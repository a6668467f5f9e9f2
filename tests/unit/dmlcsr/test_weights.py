"""Model directories and key reports."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmlcsr.augment import BORDER_COLOR
from dmlcsr.model import DMLCSR, Architecture, FaceParser
from dmlcsr.taxonomy import CELEBAMASK_HQ, LAPA
from dmlcsr.weights import (
    EDGE_HEAD,
    MODEL_FILES,
    ModelCard,
    Preprocessing,
    load_matching,
    load_model,
    pack_model,
    save_model,
    unpack_edge_head,
    unpack_model,
)

TINY = Architecture(num_classes=11, depth=18, width=0.05)
CARD = ModelCard(
    architecture=TINY,
    taxonomy=LAPA,
    preprocessing=Preprocessing(size=64, channel_order="bgr"),
    metrics={"val_mean_f1": 0.5},
    lineage={"run": "s3://bucket/run", "epochs": [1, 2]},
)


def tiny_parser() -> FaceParser:
    torch.manual_seed(0)
    return FaceParser(TINY).eval()


FILES = pack_model(tiny_parser(), CARD)


def with_card(change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    """The packed model after a change of its card."""
    content = json.loads(FILES["model.json"])
    change(content)
    return FILES | {"model.json": json.dumps(content).encode()}


def with_weights(weights: bytes) -> dict[str, bytes]:
    """The packed model with other weights, and their hash in the card."""
    digest = hashlib.sha256(weights).hexdigest()
    return with_card(lambda card: card.update(weights_sha256=digest)) | {"model.safetensors": weights}


def test_pack_and_unpack_is_bit_exact() -> None:
    parser, (again, card) = tiny_parser(), unpack_model(FILES)
    assert tuple(FILES) == MODEL_FILES
    assert card == CARD and again.architecture == TINY and not again.training
    state = again.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in parser.state_dict().items())
    assert pack_model(again, card) == FILES
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), parser(images))


def test_an_unpacked_parser_can_train_on() -> None:
    parser, _ = unpack_model(FILES)
    parser.train()(torch.randn(2, 3, 32, 32)).mean().backward()
    assert all(p.requires_grad and p.grad is not None for p in parser.parameters())


def test_save_and_load_a_folder(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny_parser(), CARD)
    assert {path.name for path in (tmp_path / "model").iterdir()} == set(MODEL_FILES)
    parser, card = load_model(tmp_path / "model")
    assert card == CARD and pack_model(parser, card) == FILES
    with pytest.raises(ValueError, match=r"model.safetensors and model.json missing"):
        load_model(tmp_path)


def test_a_score_that_is_not_a_number_survives_as_null() -> None:
    card = ModelCard(architecture=TINY, taxonomy=LAPA, preprocessing=CARD.preprocessing, metrics={"f1.hair": math.nan})
    content = card.to_json()
    assert content["metrics"] == {"f1.hair": None}
    assert math.isnan(ModelCard.from_json(content).metrics["f1.hair"])


def test_a_card_of_another_network_or_taxonomy_is_refused() -> None:
    with pytest.raises(ValueError, match="19 classes, but the network has 11"):
        ModelCard(architecture=TINY, taxonomy=CELEBAMASK_HQ, preprocessing=CARD.preprocessing)
    with pytest.raises(ValueError, match="the card describes"):
        pack_model(FaceParser(Architecture(num_classes=11, depth=18, width=0.1)), CARD)


def test_lineage_that_json_cannot_hold_is_refused() -> None:
    card = ModelCard(architecture=TINY, taxonomy=LAPA, preprocessing=CARD.preprocessing, lineage={"x": object()})
    with pytest.raises(ValueError, match="JSON"):
        pack_model(tiny_parser(), card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=3), "format version 3"),
        (lambda c: c.pop("format_version"), "format version None"),
        (lambda c: c.pop("taxonomy"), "lacks taxonomy"),
        (lambda c: c.update(taxonomy=CELEBAMASK_HQ.to_dict()), "19 classes"),
        (lambda c: c.update(format_version=1, taxonomy="cats"), "unknown taxonomy"),
        (lambda c: c["taxonomy"].update(hats=1), "taxonomy: unknown key 'hats'"),
        (lambda c: c.update(taxonomy=3), "taxonomy: expected the keys name, classes"),
        (lambda c: c["architecture"].pop("width"), "lacks architecture.width"),
        (lambda c: c["architecture"].update(depth=19), "depth must be one of"),
        (lambda c: c["architecture"].update(depth=True), "architecture.depth must be of type int"),
        (lambda c: c["architecture"].update(width="1"), "architecture.width must be of type float"),
        (lambda c: c["architecture"].update(width=10**400), "architecture.width must be"),
        (lambda c: c["architecture"].update(stem="conv9"), "stem must be one of deep, deep32, conv7"),
        (lambda c: c["architecture"].update(heads=2), "unknown key architecture.heads"),
        (lambda c: c["architecture"].update(width=0.2), "do not fit"),
        (lambda c: c.update(architecture=[]), "architecture must be of type dict"),
        (lambda c: c["preprocessing"].update(size=0), "preprocessing.size"),
        (lambda c: c["preprocessing"].update(mean=[0, 1]), "preprocessing.mean must be three numbers"),
        (lambda c: c["preprocessing"].update(std=[1, 1, 0]), "preprocessing.std"),
        (lambda c: c["preprocessing"].update(border_color=[0, 0, 256]), "preprocessing.border_color must be from 0"),
        (
            lambda c: c["preprocessing"].update(border_color=[0, 0, 0.5]),
            "preprocessing.border_color must be of type int",
        ),
        (lambda c: c["preprocessing"].update(size=1), "preprocessing.size must be from 2"),
        (lambda c: c["preprocessing"].update(channel_order="gbr"), "preprocessing.channel_order"),
        (lambda c: c.update(metrics={"a": "b"}), "metrics.a must be of type float"),
        (lambda c: c.update(lineage=None), "lineage must be of type dict"),
        (lambda c: c.update(weights_sha256="0" * 64), "SHA-256 differs"),
        (lambda c: c.pop("weights_sha256"), "SHA-256 differs"),
    ],
)
def test_a_wrong_card_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unpack_model(with_card(change))


def test_a_card_of_an_earlier_program_has_its_stem_and_border() -> None:
    _, card = unpack_model(with_card(lambda c: (c["architecture"].pop("stem"), c["preprocessing"].pop("border_color"))))
    assert card == CARD and card.architecture.stem == "deep" and card.preprocessing.border_color == BORDER_COLOR


def test_a_training_network_keeps_its_edge_heads_in_a_file_of_their_own() -> None:
    torch.manual_seed(0)
    network = DMLCSR(TINY).eval()
    files = pack_model(network, CARD)
    parser, card = unpack_model(files)
    edges = unpack_edge_head(files["model.json"], files[EDGE_HEAD])
    assert card == CARD and tuple(files) == ("model.safetensors", EDGE_HEAD, "model.json")
    assert load_matching(DMLCSR(TINY), {**parser.state_dict(), **edges}).missing == ()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in edges.items())
    for card_text, data in ((FILES["model.json"], files[EDGE_HEAD]), (files["model.json"], files[EDGE_HEAD][:-1])):
        with pytest.raises(ValueError, match=r"edge_head.safetensors does not belong"):
            unpack_edge_head(card_text, data)


def test_missing_and_foreign_files_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.json missing"):
        unpack_model({"model.safetensors": FILES["model.safetensors"]})
    for text in (b"", b"[]", b"{", b"\xff\xfe\x00", b"[" * 100_000):
        with pytest.raises(ValueError, match=r"model\.json|the card"):
            unpack_model(FILES | {"model.json": text})


def test_weights_of_another_network_are_refused_even_with_the_right_hash() -> None:
    state = tiny_parser().state_dict()
    first = next(iter(state))
    wrong = [
        {key: value for key, value in state.items() if key != first},
        state | {"extra": torch.zeros(1)},
        state | {first: torch.zeros(1)},
        state | {first: torch.zeros(state[first].shape, dtype=torch.int64)},
    ]
    for tensors in wrong:
        with pytest.raises(ValueError, match="1 tensors do not fit"):
            unpack_model(with_weights(safetensors.torch.save(tensors)))


@settings(max_examples=40, deadline=None)
@given(end=st.integers(0, len(FILES["model.safetensors"]) - 1), rehash=st.booleans())
def test_truncated_weights_are_refused(end: int, rehash: bool) -> None:
    weights = FILES["model.safetensors"][:end]
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        unpack_model(with_weights(weights) if rehash else FILES | {"model.safetensors": weights})


@settings(max_examples=40, deadline=None)
@given(weights=st.binary(max_size=200), rehash=st.booleans())
def test_random_bytes_are_refused(weights: bytes, rehash: bool) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        unpack_model(with_weights(weights) if rehash else FILES | {"model.safetensors": weights})


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, len(FILES["model.json"]) - 1), byte=st.integers(0, 255))
def test_a_flipped_byte_of_the_card_is_refused_or_harmless(position: int, byte: int) -> None:
    text = bytearray(FILES["model.json"])
    text[position] = byte
    try:
        parser, _ = unpack_model(FILES | {"model.json": bytes(text)})
    except ValueError:
        return
    assert parser.architecture.num_classes == 11


def test_load_matching_reports_every_key() -> None:
    network, parser = DMLCSR(TINY), tiny_parser()
    state = parser.state_dict() | {"fc.weight": torch.zeros(3), "edge_head.shared.bias": torch.zeros(7)}
    report = load_matching(network, state)
    assert set(report.loaded) == set(parser.state_dict())
    assert set(report.missing) == {key for key in network.state_dict() if key.startswith("edge_head.")}
    mismatch = "edge_head.shared.bias (shape mismatch: (7,) in the source, (11,) in the network)"
    assert report.unexpected == ("fc.weight", mismatch)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(images).parsing, parser(images))
