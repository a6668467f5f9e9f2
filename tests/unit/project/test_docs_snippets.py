"""The Python of README and docs/library.md runs as it stands."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import ray_job
from dmlcsr import load_model, parse
from dmlcsr.model import Architecture, FaceParser
from dmlcsr.predict import normalize
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import ModelCard, Preprocessing, save_model
from tests.support.commands import ROOT
from tests.support.networks import balance


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that snippets use: a run, and its model as ONNX. Its card differs from the default where it can."""
    folder = tmp_path_factory.mktemp("snippets")
    torch.manual_seed(0)
    architecture = Architecture(num_classes=19, depth=18, width=0.0625)
    preprocessing = Preprocessing(size=64, channel_order="bgr", border_color=(0, 40, 200))
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=preprocessing)
    face = render_face(0, 0, 64).image
    parser = balance(FaceParser(architecture), normalize(torch.from_numpy(face)[None], preprocessing))
    save_model(folder / "runs" / "first" / "model", parser, card)
    arguments = ["--format", "onnx", "--output", "labels", "--out", str(folder / "face-parser.onnx")]
    assert ray_job.main(["export", "--model", str(folder / "runs" / "first"), *arguments]) == 0
    return folder


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 51), (150, 260)])
def test_snippets_give_the_labels_of_parse(page, folder, monkeypatch, height, width):
    monkeypatch.chdir(folder)
    cv2.imwrite("photo.png", cv2.resize(render_face(0, 0, 96).image[..., ::-1], (width, height)))
    Path("photo.png").rename("photo.jpg")  # without loss; readers look at the content
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert snippets
    variables = {}
    for snippet in snippets:
        exec(snippet, variables)
    wanted = parse(load_model(folder / "runs" / "first"), folder / "photo.jpg")
    assert variables["label"].shape == (height, width) and len(np.unique(wanted)) > 3
    assert (variables["label"] == wanted).mean() > 0.9995  # the rest are ties
