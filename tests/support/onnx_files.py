"""ONNX files of another architecture: one convolution whose answer is known."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CARD = """
size: 64
mean: [0.0, 0.0, 0.0]
std: [1.0, 1.0, 1.0]
channel_order: bgr
fit: stretch
output: scores
stride: 8
taxonomy: helen
classes: {nothing: background, face: skin, beard: skin, hair: hair}
"""


def by_color(batch=None, size=None, stride=8):
    """A file with four scores for each cell: 0, and 20 m - 10 with the means m of the blue, green and red channel."""
    weight = np.zeros((4, 3, stride, stride), np.float32)
    for channel in range(3):
        weight[channel + 1, channel] = 20 / stride**2
    bias = np.array([0, -10, -10, -10], np.float32)
    shape = [batch or "batch", 3, size or "height", size or "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["picture", "weight", "bias"], ["scores"], strides=[stride, stride])],
        "by_color",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch or "batch", 4, "h", "w"])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


def write_by_color(folder, card=CARD, **settings):
    """Writes the file and its card; returns the URI of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "teacher.onnx").write_bytes(by_color(**settings))
    (folder / "teacher.yaml").write_text(card)
    assert onnx.load(folder / "teacher.onnx")
    return str(folder / "teacher.onnx")


def four_colors(height, width):
    """Quarters of black, blue, green and red: background, skin, skin and hair in the card's classes."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, width // 2 :, 2] = 255
    image[height // 2 :, : width // 2, 1] = 255
    image[height // 2 :, width // 2 :, 0] = 255
    return image
