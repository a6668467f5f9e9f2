"""The library interface: `load_model` loads a trained model, `parse` computes the label map of an image."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dmlcsr import weights
from dmlcsr.image_files import BadSampleError, read_image
from dmlcsr.predict import Predictor


def load_model(path: str | Path, device: str | torch.device = "cpu", tta: bool = False) -> Predictor:
    """Loads the model of a local model directory, or of a run directory that holds one.

    `device` is a torch device or its name. `tta` averages six views: the image and its mirror image at three scales.
    Raises ValueError if the folder holds no model or a damaged one, or if the device cannot be used.
    """
    folder = Path(path)
    inner = folder / "model"
    parser, card = weights.load_model(inner if inner.is_dir() else folder)
    return Predictor(parser, card, device, tta)


def parse(model: Predictor, image: npt.NDArray[np.uint8] | str | Path) -> npt.NDArray[np.uint8]:
    """Predicts the (H, W) uint8 class ids of an image: an array (H, W, 3) uint8 RGB or a file, of any size.

    `model.taxonomy.classes` names the ids. Raises ValueError for a file that cannot be used (BadSampleError, whose
    `reason` is the one that `predict` would list), and for another shape or dtype.
    """
    if isinstance(image, str | Path):
        image = _read(Path(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image must be (H, W, 3) uint8 RGB, H and W at least 1, got {image.dtype} {image.shape}")
    return model.label_map(image)


def _read(path: Path) -> npt.NDArray[np.uint8]:
    try:
        return read_image(path.read_bytes())
    except OSError as error:
        raise BadSampleError("unreadable", f"{path} cannot be read as an image: {error.strerror}") from error
    except BadSampleError as error:
        raise BadSampleError(error.reason, f"{path} cannot be read as an image: {error}") from error
