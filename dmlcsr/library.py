"""The three lines that use a trained model: load it, give it an image, get a label map."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dmlcsr import weights
from dmlcsr.predict import Predictor


def load_model(path: str | Path, device: str = "cpu", tta: bool = False) -> Predictor:
    """The model of a local model directory, or of a run directory that has one.

    `tta` averages over the mirrored image and three scales. Raises ValueError where there is no model or it is damaged.
    """
    folder = Path(path)
    inner = folder / "model"
    parser, card = weights.load_model(inner if inner.is_dir() else folder)
    return Predictor(parser, card, device, tta)


def parse(model: Predictor, image: npt.NDArray[np.uint8] | str | Path) -> npt.NDArray[np.uint8]:
    """(H, W) uint8 class ids of an image of any size and aspect: (H, W, 3) uint8 RGB, or a file.

    `model.taxonomy.classes` names the ids. Raises ValueError for a file that is no image, or an array of another kind.
    """
    if isinstance(image, str | Path):
        found = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB)
        if found is None:
            raise ValueError(f"{image} cannot be read as an image")
        image = found.astype(np.uint8, copy=False)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image is (H, W, 3) uint8 RGB, got {image.dtype} {image.shape}")
    return model.label_map(image)
