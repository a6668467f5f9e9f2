"""Makes label maps from published files: one file of ids, masks that are painted in order, or probability maps."""

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dmlcsr.image_files import BadSampleError, open_image
from dmlcsr.taxonomy import CELEBAMASK_HQ, Color
from pipelines.ingest.checks import decode_ids

Label = npt.NDArray[np.uint8]
LABEL = "label"
"""Name of the part if a label is a single file of ids."""
PAINT_ORDERS: Mapping[str, tuple[str, ...]] = {
    "ids": CELEBAMASK_HQ.classes[1:],
    # Both families of code number the classes in the order in which they paint them.
    **{m.name: tuple(CELEBAMASK_HQ.classes[part] for source, part in m.ids if source) for m in CELEBAMASK_HQ.mappings},
}
"""The published orders; a later part covers earlier ones. The order changes scores of accessories by tens of points."""
Colors = tuple[tuple[Color, int], ...]
"""(RGB color, id) of each color of a label file."""


def single(files: Mapping[str, bytes], colors: Colors = ()) -> Label:
    """Decodes the only file of a label to (H, W) ids: those in the file, or those of its colors if `colors` are given.

    Raises BadSampleError if it holds no ids, or a color that is not listed.
    """
    return decode_colors(files[LABEL], colors) if colors else decode_ids(files[LABEL])


def decode_colors(data: bytes, colors: Colors) -> Label:
    """Decodes a lossless RGB image to (H, W) ids of its colors.

    Raises BadSampleError for JPEG, which changes colors, and for a color that is not in `colors`.
    """
    image = open_image(data)
    if image.format == "JPEG":
        raise BadSampleError("label_not_ids", "a JPEG changes colors; expected a PNG of colors")
    pixels = np.asarray(image.convert("RGB"), np.uint32)
    codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    known = np.array([(red << 16) | (green << 8) | blue for (red, green, blue), _ in colors], np.uint32)
    order = np.argsort(known)
    places = np.minimum(np.searchsorted(known, codes, sorter=order), len(known) - 1)
    found = order[places]
    if (wrong := known[found] != codes).any():
        code = int(codes[wrong][0])
        color = (code >> 16, (code >> 8) & 255, code & 255)
        raise BadSampleError("unknown_color", f"color {color} of {int(wrong.sum())} pixels is not in the table")
    return np.array([part for _, part in colors], np.uint8)[found]


def paint_parts(masks: Mapping[str, bytes], order: str) -> Label:
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
