"""Procedural faces with exact labels: the project's embedded default data set.

`render_face` is a pure function of (seed, index). It draws a person (pose, light, skin, hair, accessories, clothes,
expression) in front of a cluttered background, together with the label map of all 19 CelebAMask-HQ classes, and
simulates a noisy camera. `corrupt_label` corrupts a label map in the ways in which real annotations fail.

Conventions: l_ and r_ are the person's left and right, as in CelebAMask-HQ, so l_eye is on the viewer's right. Facial
hair is skin. A clear lens is eye_g except at pixels that show eyes or brows; a lens of sunglasses is eye_g throughout.
Teeth and tongue are mouth; a closed mouth has no mouth pixels. Bystanders are background.
"""

from .noise import CORRUPTIONS, corrupt_label, is_corrupted
from .render import SyntheticFace, encode_image, render_face
from .streams import face_id

__all__ = [
    "CORRUPTIONS",
    "SyntheticFace",
    "corrupt_label",
    "encode_image",
    "face_id",
    "is_corrupted",
    "render_face",
]
