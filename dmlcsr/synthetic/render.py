"""Renders a picture with its exact label map from (seed, index)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .background import paint_background
from .camera import encode_jpeg, photograph, sample_camera
from .canvas import Canvas, Image, Patch
from .face import Face
from .features import SIDES, paint_brow, paint_ear, paint_eye, paint_mouth, paint_neck, paint_nose, paint_skin
from .hair import HairPainter
from .head import Head
from .sampling import sample_bystander, sample_face
from .shading import skin_texture
from .streams import Stream, face_id, generator
from .wear import paint_clothes, paint_earring, paint_frames, paint_hat, paint_lenses, paint_necklace

MIN_SIZE = 32
"""Smallest picture in pixels: below it eyes and brows may have no pixel."""
_BYSTANDER_RATE = 0.12
"""Fraction of pictures with a second face, from which models learn that bystanders are background."""


@dataclass(frozen=True)
class SyntheticFace:
    """A rendered face: `image` (S, S, 3) uint8 RGB and `label` (S, S) uint8 ids of CELEBAMASK_HQ.

    `meta` holds JSON-able facts: the pose (yaw, pitch, roll in degrees), the accessories, the JPEG quality.
    """

    id: str
    image: Image
    label: Image
    meta: dict[str, Any]


def render_face(seed: int, index: int, size: int) -> SyntheticFace:
    """Renders face `index` of `seed` in size x size pixels. It is a pure function; `size` only changes the sampling.

    Some pictures show a second face at their border. It is labelled background, because CelebAMask-HQ labels only the
    subject of a picture. Raises ValueError for a size below 32 and for a negative seed or index.
    """
    name = face_id(seed, index)
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    face = sample_face(generator(seed, index, Stream.FACE))
    canvas = Canvas(size)
    scene_rng = generator(seed, index, Stream.BACKGROUND)
    second_face = scene_rng.random() < _BYSTANDER_RATE
    background = paint_background(canvas, scene_rng)
    if second_face:
        bystander = sample_bystander(generator(seed, index, Stream.SECOND_FACE))
        canvas.labelled = False
        paint_person(canvas, bystander, generator(seed, index, Stream.SECOND_TEXTURE))
        canvas.labelled = True
    paint_person(canvas, face, generator(seed, index, Stream.TEXTURE))
    camera_rng = generator(seed, index, Stream.CAMERA)
    camera = sample_camera(camera_rng)
    image = photograph(canvas.image, camera, face.light.tint, camera_rng)
    meta = {**_facts(face), "background": background, "second_face": second_face, "jpeg_quality": camera.jpeg_quality}
    return SyntheticFace(name, image, canvas.label, meta)


def encode_image(face: SyntheticFace) -> bytes:
    """The picture as JPEG bytes, with the quality of its camera (62..96)."""
    return encode_jpeg(face.image, int(face.meta["jpeg_quality"]))


def paint_person(canvas: Canvas, face: Face, rng: np.random.Generator) -> None:
    """Paints a person from back to front. The part in front gets the label, except under a clear lens."""
    head = Head(face)
    skin = skin_texture(head, rng, canvas.size)
    hair = HairPainter(head, rng, canvas.size)
    hair.paint_back(canvas)
    paint_neck(canvas, head)
    paint_clothes(canvas, head, rng)
    if face.wear.necklace:
        paint_necklace(canvas, head)
    skin_patch = _paint_head(canvas, head, skin)
    _paint_face(canvas, head, skin, rng)
    hair.paint_front(canvas, skin_patch)
    if face.wear.earrings:
        for side in SIDES:
            if not head.is_far(side):
                paint_earring(canvas, head, side)
    if face.wear.hat:
        paint_hat(canvas, head, rng)


def _paint_head(canvas: Canvas, head: Head, skin: Image) -> Patch | None:
    """Paints ears and skin, and returns the coverage of the skin.

    An ear is painted before the skin, behind the cheek, except if its side is turned to the viewer.
    """
    near = [side for side in SIDES if -side * head.sin > 0.2]
    for side in SIDES:
        if side not in near and not head.is_far(side):
            paint_ear(canvas, head, side, skin)
    patch = paint_skin(canvas, head, skin)
    for side in near:
        paint_ear(canvas, head, side, skin)
    return patch


def _paint_face(canvas: Canvas, head: Head, skin: Image, rng: np.random.Generator) -> None:
    glasses = head.face.wear.glasses
    paint_nose(canvas, head, skin)
    paint_mouth(canvas, head)
    if glasses == "clear":
        paint_lenses(canvas, head)
    for side in SIDES:
        paint_eye(canvas, head, side)
        paint_brow(canvas, head, side, rng)
    if glasses:
        paint_frames(canvas, head)


def _facts(face: Face) -> dict[str, Any]:
    pose, wear = face.pose, face.wear
    return {
        "yaw": round(float(np.degrees(pose.yaw)), 2),
        "pitch": round(float(np.degrees(pose.pitch)), 2),
        "roll": round(float(np.degrees(pose.roll)), 2),
        "scale": round(pose.scale, 4),
        "glasses": bool(wear.glasses),
        "sunglasses": wear.glasses == "sun",
        "hat": bool(wear.hat),
        "earrings": bool(wear.earrings),
        "necklace": bool(wear.necklace),
        "hair": face.hair.style,
        "beard": face.skin.beard,
        "mouth_open": face.mouth.opening > 0,
    }
