"""Makes label maps from published files: one file of ids, masks that are painted in order, or probability maps."""

from collections.abc import Mapping
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dmlcsr.taxonomy import CELEBAMASK_HQ
from pipelines.ingest.checks import BadSampleError, decode_ids, open_image

Label = npt.NDArray[np.uint8]
LABEL = "label"
"""Name of the part if a label is a single file of ids."""
PaintOrder = Literal["ids", "accessories_last"]
PAINT_ORDERS: Mapping[PaintOrder, tuple[str, ...]] = {
    "ids": CELEBAMASK_HQ.classes[1:],
    "accessories_last": (
        "cloth", "neck", "skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
        "l_lip", "hair", "eye_g", "hat", "ear_r", "neck_l",
    ),
}  # fmt: skip
"""Two published orders; a later part covers earlier ones. The order changes scores of accessories by tens of points."""


def single(files: Mapping[str, bytes]) -> Label:
    """Decodes the only file of a label to (H, W) ids. Raises BadSampleError if it holds no ids."""
    return decode_ids(files[LABEL])


def paint_parts(masks: Mapping[str, bytes], order: PaintOrder) -> Label:
    """Paints the encoded masks of a face's parts in the given order; returns (H, W) CelebAMask-HQ ids.

    A mask pixel above 0 belongs to the part. Raises BadSampleError if a mask is damaged or the masks differ in size.
    """
    label: Label | None = None
    for part in PAINT_ORDERS[order]:
        if part not in masks:
            continue
        mask = _above_zero(_open(masks, part))
        if label is None:
            label = np.zeros(mask.shape, np.uint8)
        if mask.shape != label.shape:
            raise BadSampleError("label_size", f"mask {part} is {mask.shape}, the others {label.shape} (rows, columns)")
        label[mask] = CELEBAMASK_HQ.classes.index(part)
    assert label is not None
    return label


def most_probable(maps: Mapping[str, bytes]) -> Label:
    """(H, W) ids of the most probable classes in encoded 8-bit probability maps; of equal classes the lowest id.

    The maps, sorted by name, are those of ids 0, 1, 2 and so on.

    Raises BadSampleError if a map is damaged or the maps differ in size.
    """
    pixels = [np.asarray(_open(maps, name).convert("L")) for name in sorted(maps)]
    if len({values.shape for values in pixels}) > 1:
        raise BadSampleError("label_size", "the probability maps differ in size")
    best, label = pixels[0].copy(), np.zeros(pixels[0].shape, np.uint8)
    for number, values in enumerate(pixels[1:], start=1):
        label[values > best] = number
        cv2.max(values, best, dst=best)
    return label


def _open(files: Mapping[str, bytes], name: str) -> Image.Image:
    try:
        return open_image(files[name])
    except BadSampleError as error:
        raise BadSampleError(error.reason, f"part {name}: {error}") from error


def _above_zero(mask: Image.Image) -> npt.NDArray[np.bool_]:
    values = np.asarray(mask)
    if values.ndim == 2:
        return np.asarray(values > 0)
    colors = values[..., :1] if mask.mode == "LA" else values[..., :3]  # a fourth channel is opacity
    return np.asarray(np.bitwise_or.reduce(colors, axis=2) > 0)
