"""Painters of the face's own parts: neck, skin, ears, nose, mouth, eyes, brows."""

import numpy as np

from .canvas import Canvas, Image, Patch, scaled
from .curves import Points, ellipse, loop, moved, path, ribbon, taper
from .head import Head
from .labels import BROWS, EARS, EYES, LOWER_LIP, MOUTH, NECK, NOSE, SKIN, UPPER_LIP

Rng = np.random.Generator
SIDES = (-1, 1)
_PUPIL = (12.0, 10.0, 10.0)
_TOOTH_GAPS = np.array([(u, 0.0) for u in (-0.54, -0.34, -0.16, 0.0, 0.16, 0.34, 0.54)])[:, None]
_BROW_HAIR = np.array([(-0.022, 0.035), (0.0, -0.004), (0.035, -0.03), (-0.008, -0.012)])  # one hair, from its root


def paint_neck(canvas: Canvas, head: Head) -> None:
    """Paints neck and chest with the chin's shadow; the clothes cover most of it later."""
    scale = head.face.pose.scale
    dark = scaled(head.face.skin.color, 0.22)
    patch = canvas.paint(head.neck(), scaled(head.face.skin.color, 0.86), NECK)
    canvas.shade([moved(head.contour(), 0.0, 0.16 * scale)], 0.1 * scale, dark, 0.75, within=patch)
    side = -np.sign(head.face.light.direction[0]) or 1.0
    shadow = head.body(ellipse((side * 0.75, 1.3), (0.45, 0.9)))
    canvas.shade([shadow], 0.12 * scale, dark, 0.4, within=patch)
    if head.face.wear.collar in ("wide", "v"):  # collar bones
        for s in SIDES:
            bone = head.body(path([(s * 0.1, 1.5), (s * 0.35, 1.44), (s * 0.75, 1.42)]))
            canvas.within(patch, [ribbon(bone, taper(len(bone), 0.03 * scale))], dark, 0.25)


def paint_ear(canvas: Canvas, head: Head, side: int, skin: Image) -> None:
    """Paints one ear, darker in its hollow."""
    dark = scaled(head.face.skin.color, 0.45)
    canvas.paint(head.ear(side), skin, EARS[side])
    hollow = head.ear(side, inner=True)
    canvas.shade([hollow], 0.02 * head.face.pose.scale, dark, 0.65)


def paint_skin(canvas: Canvas, head: Head, skin: Image) -> Patch | None:
    """Paints the head in its lit skin texture and returns its coverage."""
    patch = canvas.paint(head.contour(), skin, SKIN)
    scale = head.face.pose.scale
    # The jaw's edge turns away from the viewer: a soft rim separates it from the neck.
    rim, dark = head.contour(), scaled(head.face.skin.color, 0.3)
    canvas.shade([loop(rim, 0.05 * scale)], 0.03 * scale, dark, 0.4, patch)
    return patch


def paint_nose(canvas: Canvas, head: Head, skin: Image) -> None:
    """Paints the nose: the skin's texture with wings, nostrils, and the shadows that make it visible."""
    scale, w, tip = head.face.pose.scale, head.face.nose_width, 0.36 + head.face.nose_length
    dark = scaled(head.face.skin.color, 0.35)
    patch = canvas.paint(head.nose(), skin, NOSE)
    under = head.on_face(ellipse((0.0, tip + 0.05), (w * 1.0, 0.035)), lift=0.06)
    canvas.shade([under], 0.025 * scale, dark, 0.55)
    for side in SIDES:
        wing = path([(side * w * 0.72, tip - 0.11), (side * w, tip - 0.05), (side * w * 0.85, tip + 0.025)])
        edge = head.on_face(wing, lift=0.05)
        canvas.paint(ribbon(edge, taper(len(edge), 0.022 * scale)), dark, None, 0.4)
        nostril = head.on_face(ellipse((side * 0.5 * w, tip + 0.012), (0.3 * w, 0.02)), lift=0.12)
        canvas.within(patch, [nostril], scaled(dark, 0.5), 0.85)
    # One side of the ridge lies in shade.
    away = -np.sign(head.face.light.direction[0]) or 1.0
    ridge = [(away * 0.03, -0.08), (away * 0.1, -0.05), (away * 0.13, tip - 0.12), (away * 0.06, tip - 0.1)]
    canvas.shade([head.on_face(ridge, 0.05)], 0.02 * scale, dark, 0.3)


def paint_mouth(canvas: Canvas, head: Head) -> None:
    """Paints the lips, and the interior with teeth and tongue if the mouth is open, or a line if it is closed."""
    mouth, scale = head.face.mouth, head.face.pose.scale
    upper, lower, interior = head.lips()
    chin_side = mouth.height + 0.5 * mouth.opening + mouth.lower + 0.02
    below = ellipse((0.0, chin_side), (mouth.width * 0.6, 0.03))
    canvas.shade([head.on_face(below, 0.04)], 0.025 * scale, scaled(head.face.skin.color, 0.35), 0.45)
    upper_patch = canvas.paint(upper, scaled(mouth.color, 0.86), UPPER_LIP)
    lower_patch = canvas.paint(lower, mouth.color, LOWER_LIP)
    _shape_lips(canvas, head, upper_patch, lower_patch)
    dark = scaled(mouth.color, 0.22)
    if mouth.opening > 0.0:
        inside = canvas.paint(interior, dark, MOUTH)
        _paint_inside(canvas, head, inside)
    line = interior[: len(interior) // 2]
    canvas.paint(ribbon(line, taper(len(line), 0.02 * scale, 0.008 * scale)), dark, None, 0.75)


def _shape_lips(canvas: Canvas, head: Head, upper: Patch | None, lower: Patch | None) -> None:
    """Shades the lips so that they look round: dark at the corners and the upper edge, glossy on the lower lip."""
    mouth, scale = head.face.mouth, head.face.pose.scale
    bottom = mouth.height + 0.5 * mouth.opening
    gloss = head.on_face(ellipse((0.0, bottom + 0.42 * mouth.lower), (0.42 * mouth.width, 0.2 * mouth.lower)), 0.06)
    canvas.shade([gloss], 0.02 * scale, (255, 235, 230), 0.2 + 0.4 * head.face.skin.gloss, lower)
    low_edge = head.on_face(ellipse((0.0, bottom + mouth.lower), (mouth.width, 0.25 * mouth.lower)), 0.06)
    canvas.shade([low_edge], 0.015 * scale, scaled(mouth.color, 0.4), 0.5, lower)
    middle = head.on_face(ellipse((0.0, mouth.height - 0.5 * mouth.opening), (mouth.width, 0.3 * mouth.upper)), 0.06)
    canvas.shade([middle], 0.015 * scale, scaled(mouth.color, 0.35), 0.5, upper)


def _paint_inside(canvas: Canvas, head: Head, inside: Patch | None) -> None:
    mouth, scale = head.face.mouth, head.face.pose.scale
    half, w = 0.5 * mouth.opening, mouth.width
    tongue = head.on_face(ellipse((0.0, mouth.height + half * 1.3), (0.5 * w, 0.8 * half)), 0.02)
    canvas.within(inside, [tongue], (150, 70, 72), 0.8)
    bright, top = 150 + 90 * mouth.teeth, mouth.height - half
    edge, side = top + mouth.opening * (0.35 + 0.4 * mouth.teeth), mouth.height - 0.05 * mouth.smile - 0.02
    row = [(-0.82 * w, side), (-0.5 * w, top - 0.03), (0.0, top - 0.03), (0.5 * w, top - 0.03), (0.82 * w, side),
           (0.4 * w, edge), (0.0, edge + 0.006), (-0.4 * w, edge)]  # fmt: skip
    canvas.within(inside, [head.on_face(row, 0.04)], (bright, bright * 0.97, bright * 0.9))
    gap = np.array([(-0.002, top - 0.02), (0.002, top - 0.02), (0.0, edge + 0.01)])
    gaps = (gap + _TOOTH_GAPS * w).reshape(-1, 2)
    canvas.within(inside, list(head.on_face(gaps, 0.04).reshape(-1, 3, 2)), (90, 66, 60), 0.5)
    lip_shadow = head.on_face(ellipse((0.0, mouth.height - half), (w, 0.03)), 0.04)
    canvas.shade([lip_shadow], 0.012 * scale, (30, 10, 10), 0.5, inside)


def paint_eye(canvas: Canvas, head: Head, side: int) -> None:
    """Paints one eye. The visible eyeball gets the eye's label; lids and lashes are skin."""
    eyes, scale = head.face.eyes, head.face.pose.scale
    patch = canvas.paint(head.eye(side), (226, 219, 212), EYES[side])
    gaze = (eyes.gaze[0] * 0.08, eyes.gaze[1] * 0.06 - 0.012)
    center, squash = head.eye_center(side, *gaze), 0.55 + 0.45 * head.cos
    rings = ((0.075, scaled(eyes.iris, 0.5)), (0.064, eyes.iris), (0.045, scaled(eyes.iris, 1.25)), (0.031, _PUPIL))
    for radius, color in rings:
        canvas.within(patch, [head.disc(center, radius, squash)], color)
    light = head.face.light.direction
    glint = head.eye_center(side, gaze[0] + 0.03 * np.sign(light[0]), gaze[1] - 0.03)
    canvas.within(patch, [head.disc(glint, 0.014)], (250, 250, 250), 0.9)
    lash = head.lid(side, 0.0)
    canvas.shade([ribbon(lash, 0.05 * scale)], 0.014 * scale, (30, 16, 12), 0.55, patch)
    _paint_lids(canvas, head, side, lash)


def _paint_lids(canvas: Canvas, head: Head, side: int, lash: Points) -> None:
    """Paints the lashes, the crease above the eye and the edge of the lower lid."""
    eyes, scale = head.face.eyes, head.face.pose.scale
    dark = scaled(head.face.skin.color, 0.4)
    width = (0.018 + 0.02 * eyes.makeup) * scale
    canvas.paint(ribbon(lash, taper(len(lash), width, 0.004 * scale)), (22, 15, 13), None, 0.85)
    crease = head.lid(side, 0.045)
    canvas.paint(ribbon(crease, taper(len(crease), 0.014 * scale)), dark, None, 0.45)
    under = head.on_face(ellipse((side * eyes.gap, 0.075), (eyes.width * 0.9, 0.012)))
    canvas.shade([under], 0.02 * scale, dark, 0.3)


def paint_brow(canvas: Canvas, head: Head, side: int, rng: Rng) -> None:
    """Paints one brow as a soft body and 16 hairs; the body gets the label."""
    brows = head.face.brows
    patch = canvas.paint(head.brow(side), brows.color, BROWS[side], 0.78)
    u = rng.uniform(-0.15, 0.18, 16)
    v = brows.height - 0.5 * brows.tilt * u - brows.arch * np.maximum(1 - np.abs(u - 0.06) / 0.2, 0)
    roots = np.stack([u + head.face.eyes.gap, v], axis=1)
    hairs = (roots[:, None] + _BROW_HAIR).reshape(-1, 2) * (side, 1)
    canvas.within(patch, list(head.on_face(hairs, 0.03).reshape(-1, 4, 2)), scaled(brows.color, 0.5), 0.55)
