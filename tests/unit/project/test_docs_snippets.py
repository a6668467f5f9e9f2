"""The Python of README and docs/library.md runs as it stands."""

import re

import cv2
import pytest
import torch

import ray_job
from dmlcsr.model import Architecture, FaceParser
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import ModelCard, Preprocessing, save_model
from tests.support.commands import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that snippets use: a run, its model as ONNX, and a photo."""
    folder = tmp_path_factory.mktemp("snippets")
    torch.manual_seed(0)
    architecture = Architecture(num_classes=19, depth=18, width=0.0625)
    card = ModelCard(architecture=architecture, taxonomy=CELEBAMASK_HQ, preprocessing=Preprocessing(size=64))
    save_model(folder / "runs" / "first" / "model", FaceParser(architecture).eval(), card)
    cv2.imwrite(str(folder / "photo.jpg"), render_face(0, 0, 96).image[..., ::-1])
    out = str(folder / "face-parser.onnx")
    assert ray_job.main(["export", "--model", str(folder / "runs" / "first"), "--format", "onnx", "--out", out]) == 0
    return folder


@pytest.mark.parametrize("page", ["README.md", "docs/library.md"])
def test_snippets_run(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    snippets = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert snippets
    variables = {}
    for snippet in snippets:
        exec(snippet, variables)
    assert variables["label"].shape == ((96, 96) if page == "README.md" else (64, 64))
