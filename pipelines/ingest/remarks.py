"""Remarks about single rows: labels that train nothing, mirrored labels, and labels of rotated photos."""

import numpy as np
import numpy.typing as npt

from dmlcsr.image_files import BadSampleError
from dmlcsr.quality import looks_mirrored
from dmlcsr.taxonomy import IGNORE, Taxonomy
from pipelines.data.images import fits
from pipelines.data.packing import MIRRORED, SampleProblem
from pipelines.ingest import checks

ONLY_BACKGROUND, BINARY_MASK, ROTATION_UNKNOWN = "only_background", "binary_mask", "rotation_unknown"
"""Reasons of remarks about rows that stay in the data set."""
NOT_ROTATED = "label_not_rotated"
"""Reason of a rejected sample whose label has the size of the photo before its EXIF rotation."""
Label = npt.NDArray[np.uint8]


def about(name: str, image: bytes, label: Label, taxonomy: Taxonomy) -> list[SampleProblem]:
    """The remarks about a row with this id, encoded image and (H, W) label, which fits the image."""
    found = {}
    if looks_mirrored(label, taxonomy):
        found[MIRRORED] = "more parts lie on the other side of their partner than the taxonomy says"
    if not label.any():
        found[ONLY_BACKGROUND] = "every pixel of the label is background"
    elif ((label == 0) | (label == IGNORE)).all():
        found[BINARY_MASK] = f"the label holds only 0 and {IGNORE}, which is ignored, so the row trains no part"
    turned = checks.orientation(image)
    if turned in (2, 3, 4) or (turned > 1 and label.shape[0] == label.shape[1]):
        found[ROTATION_UNKNOWN] = (
            f"the photo has EXIF orientation {turned}, and a label has the same size before and after this rotation: "
            "it cannot be known whether the label was made on the rotated photo"
        )
    return [SampleProblem(source=name, reason=reason, detail=detail) for reason, detail in found.items()]


def check_rotation(image: bytes, label: Label, image_size: tuple[int, int]) -> None:
    """Raises BadSampleError if a label fits only the photo before its EXIF rotation; `image_size` is that after it."""
    if fits(label.shape, image_size) or checks.orientation(image) < 5:
        return
    raw_size = image_size[::-1]
    if fits(label.shape, raw_size):
        raise BadSampleError(
            NOT_ROTATED,
            f"label {label.shape[1]}x{label.shape[0]} was made on the photo before its EXIF rotation to "
            f"{image_size[1]}x{image_size[0]}; rotate the label as the photo",
        )
