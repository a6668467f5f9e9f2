"""Procedural faces with exact labels: the project's embedded default data set.

`render_face` is a pure function of (seed, index): it draws a person (pose, light, skin, hair, accessories, clothes,
expression) in front of a cluttered background, together with the label map of all 19 CelebAMask-HQ classes, and
photographs it with a noisy camera. `corrupt_label` spoils a label the way real annotations are spoilt.

Conventions: l_ and r_ are the viewer's left and right; facial hair is skin; a clear lens is eye_g except where eyes
or brows show through it, a sunglass's lens is eye_g throughout; teeth and tongue are mouth; a closed mouth has no
mouth pixels; bystanders are background.
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
