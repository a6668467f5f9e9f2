"""The library interface: `load_model` loads a trained model, `parse` computes the label map of an image."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr import weights
from dmlcsr.predict import Predictor


def load_model(path: str | Path, device: str = "cpu", tta: bool = False) -> Predictor:
    """Loads the model of a local model directory, or of a run directory that holds one.

    `device` is a torch device. `tta` averages six views: the image and its mirror image at three scales. Raises
    ValueError if the folder holds no model or a damaged one.
    """
    folder = Path(path)
    inner = folder / "model"
    parser, card = weights.load_model(inner if inner.is_dir() else folder)
    return Predictor(parser, card, device, tta)


def parse(model: Predictor, image: npt.NDArray[np.uint8] | str | Path) -> npt.NDArray[np.uint8]:
    """Predicts the (H, W) uint8 class ids of an image: an array (H, W, 3) uint8 RGB or a file, of any size.

    `model.taxonomy.classes` names the ids. Raises ValueError for a file that is not an image, and for another shape
    or dtype.
    """
    if isinstance(image, str | Path):
        found = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB)
        if found is None:
            raise ValueError(f"{image} cannot be read as an image")
        image = found.astype(np.uint8, copy=False)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be (H, W, 3) uint8 RGB, got {image.dtype} {image.shape}")
    return model.label_map(image)
