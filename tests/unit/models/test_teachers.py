"""What a teacher of another input size or border is shown, and where its answers lie."""

import numpy as np
import pytest
import torch

from dmlcsr.augment import BORDER_COLOR, Pose, warp_image, warp_label
from dmlcsr.model import FaceParser
from dmlcsr.model.dmlcsr import DMLCSR
from dmlcsr.synthetic import render_face
from dmlcsr.taxonomy import CELEBAMASK_HQ
from dmlcsr.weights import Preprocessing
from pipelines.config.training import TrainConfig
from pipelines.models import model_directory
from pipelines.models.teachers import TeacherNetwork, configured_teacher
from tests.support.networks import card


class Notes(torch.nn.Module):
    """Notes the pixels that it gets, and answers with where they are: the column, from 0 to 1, at stride 4."""

    def forward(self, x):
        self.seen = x
        cells = -(-x.shape[2] // 4)
        return torch.linspace(0, 1, cells).expand(len(x), 2, cells, cells)


def batch_of(image, size):
    label = np.zeros(image.shape[:2], np.uint8)
    canvas, ids = warp_image(image, size, Pose()), warp_label(label, size, Pose(), CELEBAMASK_HQ)
    return {"image": torch.from_numpy(canvas)[None], "label": torch.from_numpy(ids)[None]}


@pytest.mark.parametrize("size", [32, 64, 192])
def test_a_teacher_is_shown_its_own_size(size):
    network, face = Notes(), render_face(0, 0, 96).image
    TeacherNetwork(network, Preprocessing(size=size), 0.5).targets(batch_of(face, 64), 1)
    assert network.seen.shape == (1, 3, size, size)
    own = torch.from_numpy(warp_image(face, size, Pose())).permute(2, 0, 1) / 255
    seen = network.seen[0] * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen += torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    assert (seen - own).abs().mean() < 0.03


@pytest.mark.parametrize("size", [32, 64, 192])
def test_its_answers_lie_where_the_pixels_of_the_student_are(size):
    teacher = TeacherNetwork(Notes(), Preprocessing(size=size), 0.0)
    canvas = torch.arange(64, dtype=torch.uint8).view(1, 1, 64, 1).expand(1, 64, 64, 3)
    teacher.targets({"image": canvas, "label": torch.zeros(1, 64, 64, dtype=torch.uint8)}, 1)
    columns = teacher.network.seen[0, 0, 0] * 0.229 * 255 + 0.485 * 255
    wanted = torch.linspace(0, 63, size)  # linear over the teacher's canvas, as are its logits
    torch.testing.assert_close(columns, wanted, atol=0.01 if size >= 64 else 0.8, rtol=0)


def test_a_teacher_with_another_border_is_shown_its_own():
    network = Notes()
    preprocessing = Preprocessing(size=64, border_color=(0, 0, 0), mean=(0, 0, 0), std=(1, 1, 1))
    batch = batch_of(np.full((20, 64, 3), BORDER_COLOR, np.uint8), 64)  # a photo of the student's border color
    TeacherNetwork(network, preprocessing, 0.5).targets(batch, 1)
    shown = network.seen[0].permute(1, 2, 0) * 255
    assert not shown[:22].any() and not shown[42:].any()
    torch.testing.assert_close(shown[25], torch.tensor(BORDER_COLOR).float().expand(64, 3))


def test_a_configured_teacher_of_another_size_teaches(tmp_path):
    described = card(size=96)
    model_directory.write_model(str(tmp_path), FaceParser(described.architecture).eval(), described)
    config = TrainConfig(data="/unused", out="/unused", teacher=str(tmp_path), input={"size": 64})
    teacher = configured_teacher(config, torch.device("cpu"))
    targets = teacher.targets(batch_of(render_face(0, 0, 64).image, 64), 1)
    assert targets.parsing.shape[2:] == (64, 64) and targets.binary_edge is None


def test_edge_heads_of_a_model_directory_are_not_needed_to_teach(tmp_path):
    described = card(size=64)
    model_directory.write_model(str(tmp_path), DMLCSR(described.architecture).eval(), described)
    parser, _ = model_directory.read_model(str(tmp_path))
    assert isinstance(parser, FaceParser)
