"""Painters of clothes and accessories: necklace, earrings, glasses, hat."""

import math

import numpy as np

from .canvas import Canvas, Color, Image, scaled
from .curves import Points, closed, ellipse, loop, mirrored, moved, path, points, ribbon
from .features import SIDES
from .head import Head
from .labels import CLOTH, EARRING, GLASSES, HAT, NECKLACE
from .texture import ramp, to_gray, value_noise

Rng = np.random.Generator

_SHINE = points([(-0.1, -0.12), (0.02, -0.12), (-0.06, 0.14), (-0.14, 0.14)])  # reflection, from a lens's middle


def fabric(rng: Rng, size: int, kind: str, colors: tuple[Color, Color]) -> Image:
    """(S, S, 3) uint8 texture of cloth with folds; `kind` is "plain", "stripes", "checks" or "noise"."""
    folds = value_noise(rng, size, (6, 14, 90))
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.025, 0.09)
    if kind == "plain":
        return ramp(to_gray(0.4 * folds), scaled(colors[0], 0.65), scaled(colors[0], 1.3))
    if kind == "noise":
        return ramp(to_gray(1.6 * value_noise(rng, size, (24, 60))), *colors)
    axis = ((np.arange(size, dtype=np.float32) + 0.5) / size) * (2 * math.pi / period)
    x, y = axis[None, :], axis[:, None]
    wave = np.sin(math.cos(angle) * x + math.sin(angle) * y)
    if kind == "checks":
        wave = 0.5 * (wave + np.sin(math.cos(angle) * y - math.sin(angle) * x))
    return ramp(to_gray((np.clip(3 * wave, -0.7, 0.7) + 0.35 * folds).astype(np.float32)), *colors)


def paint_clothes(canvas: Canvas, head: Head, rng: Rng) -> None:
    """Paints shoulders and collar in front of the neck."""
    wear, scale = head.face.wear, head.face.pose.scale
    texture = fabric(rng, canvas.size, wear.cloth, wear.cloth_colors)
    neck = 0.62 * head.half_width
    depth = {"round": 1.42, "v": 1.78, "wide": 1.62, "turtle": 1.1, "shirt": 1.5}[wear.collar]
    rim = {"round": 1.22, "v": 1.24, "wide": 1.4, "turtle": 1.02, "shirt": 1.12}[wear.collar]
    half = neck * {"wide": 2.2, "turtle": 1.05}.get(wear.collar, 1.25)
    low = 0.5 * (rim + depth) if wear.collar in ("v", "shirt") else depth - 0.04
    opening = path([(half, rim), (0.55 * half, low), (0.0, depth), (-0.55 * half, low), (-half, rim)])
    right = [(half + 0.25, rim + 0.16), (1.35, 1.5), (1.75, 1.75), (2.1, 2.6), (2.2, 4.5)]
    outline = head.body(np.concatenate([opening, mirrored(right)[::-1], right[::-1]]))
    patch = canvas.paint(outline, texture, CLOTH)
    dark = scaled(wear.cloth_colors[0], 0.25)
    edge = head.body(opening)
    canvas.within(patch, [ribbon(edge, 0.09 * scale)], dark, 0.35)
    canvas.shade([moved(head.contour(), 0.0, 0.3 * scale)], 0.12 * scale, dark, 0.5, patch)
    if wear.collar == "shirt":
        for s in SIDES:
            corners = [(half, rim - 0.04), (0.06, depth), (0.35, depth + 0.1), (half + 0.2, rim + 0.12)]
            flap = head.body(points(corners) * (s, 1))
            canvas.paint(flap, texture, CLOTH)
            canvas.paint(loop(flap, 0.02 * scale), dark, None, 0.5)


def paint_necklace(canvas: Canvas, head: Head) -> None:
    """Paints a chain, a row of beads, or a chain with a pendant over neck and clothes."""
    wear, scale = head.face.wear, head.face.pose.scale
    half = 0.66 * head.half_width
    drop = 1.36 if wear.necklace == "beads" else 1.44
    side = (0.62 * half, drop - 0.08)
    line = head.body(path([(-half, 1.1), (-side[0], side[1]), (0.0, drop), side, (half, 1.1)]))
    thick = 0.075 if wear.necklace == "beads" else 0.042
    canvas.shade([moved(ribbon(line, 1.3 * thick * scale), 0.0, 0.03 * scale)], 0.02 * scale, (20, 10, 8), 0.5)
    shapes = [ribbon(line, thick * scale)]
    if wear.necklace == "pendant":
        shapes.append(head.disc(moved(line[len(line) // 2][None], 0.0, 0.07 * scale), 0.085, 0.75))
    patch = canvas.paint(shapes, wear.jewel, NECKLACE)
    bead = head.disc(np.zeros((1, 2)), thick)
    canvas.within(patch, [0.42 * bead + p for p in line[1:-1]], scaled(wear.jewel, 0.62))
    glints = moved(line[1:-1], -0.008 * scale, -0.01 * scale)
    canvas.within(patch, [0.18 * bead + p for p in glints], (255, 252, 240), 0.85)


def paint_earring(canvas: Canvas, head: Head, side: int) -> None:
    """Paints a stud, hoop or drop at the ear lobe, over the hair that covers the ear."""
    wear, scale = head.face.wear, head.face.pose.scale
    lobe = head.lobe(side)
    if wear.earrings == "hoop":
        ring = ellipse((0.0, 0.0), (0.075, 0.11)) * scale + lobe[0] + (0.0, 0.1 * scale)
        shapes = [loop(ring, 0.034 * scale)]
    elif wear.earrings == "drop":
        hang = closed([(0.0, -0.02), (0.035, 0.05), (0.06, 0.17), (0.0, 0.25), (-0.06, 0.17), (-0.035, 0.05)])
        shapes = [hang * scale + lobe[0]]
    else:
        shapes = [head.disc(lobe, 0.052)]
    patch = canvas.paint(shapes, wear.jewel, EARRING)
    canvas.within(patch, [moved(s, 0.018 * scale, 0.02 * scale) for s in shapes], scaled(wear.jewel, 0.55), 0.6)
    canvas.within(patch, [head.disc(moved(lobe, -0.012 * scale, 0.0), 0.016)], (255, 255, 250), 0.9)


def _lens(head: Head, side: int, grow: float) -> Points:
    eyes, wear = head.face.eyes, head.face.wear
    shape = ellipse((side * (eyes.gap + 0.015), 0.02), (eyes.width * 1.38 + grow, 0.15 + grow), wear.glasses_shape)
    return head.on_face(shape, lift=0.09)


def paint_lenses(canvas: Canvas, head: Head) -> None:
    """Paints clear lenses, before eyes and brows. So eyes and brows keep their class, and the skin becomes glasses."""
    for side in SIDES:
        canvas.paint(_lens(head, side, 0.0), (225, 235, 240), GLASSES, 0.1)


def paint_frames(canvas: Canvas, head: Head) -> None:
    """Paints the frames over everything on the face, and the opaque lenses of sunglasses."""
    wear, scale = head.face.wear, head.face.pose.scale
    color, gap = wear.glasses_color, head.face.eyes.gap
    for side in SIDES:
        if wear.glasses == "sun":
            dark = canvas.paint(_lens(head, side, 0.02), (34, 30, 30), GLASSES, 0.96)
            shine = moved(_SHINE, side * gap, 0.0)
            canvas.shade([head.on_face(shine, 0.09)], 0.025 * scale, (190, 205, 220), 0.35, dark)
        rim = _lens(head, side, 0.012)
        bar = _temple(head, side)
        canvas.paint([loop(rim, 0.036 * scale), bar], color, GLASSES)
        edge = loop(rim - 0.006 * scale, 0.008 * scale)
        canvas.paint(edge, scaled(color, 1.6), None, 0.5)
        glare = head.on_face([(side * gap - 0.14, -0.1), (side * gap - 0.06, -0.1), (side * gap - 0.12, 0.08)], 0.09)
        canvas.shade([glare], 0.012 * scale, (255, 255, 255), 0.25)
    bridge = head.on_face(path([(-gap + 0.17, -0.01), (0.0, -0.045), (gap - 0.17, -0.01)]), lift=0.13)
    canvas.paint(ribbon(bridge, 0.038 * scale), color, GLASSES)


def _temple(head: Head, side: int) -> Points:
    """The bar from a lens to the ear."""
    eyes = head.face.eyes
    start = head.turn([(side * (eyes.gap + 1.36 * eyes.width), -0.03)], lift=0.09)
    end = head.turn_outline([(side * (head.half_width + 0.01), -0.03)])
    return ribbon(head.place(np.concatenate([start, end])), 0.034 * head.face.pose.scale)


def paint_hat(canvas: Canvas, head: Head, rng: Rng) -> None:
    """Paints a beanie, a cap or a hat with a brim over the hair."""
    wear, scale, w = head.face.wear, head.face.pose.scale, head.half_width
    size = w + 0.06 + 0.6 * head.face.hair.volume
    top = -1.06 - head.face.hair.volume - {"beanie": 0.1, "cap": 0.06, "brim": 0.2}[wear.hat]
    low = -0.46 + rng.uniform(-0.08, 0.06)
    kind = "noise" if rng.random() < 0.25 else "plain"
    texture = fabric(rng, canvas.size, kind, (wear.hat_color, scaled(wear.hat_color, 0.6)))
    dome = _dome(size, low, top, 0.62 if wear.hat == "brim" else 0.9)
    sag = 0.1 - 0.5 * head.pitch
    right = [(size, low), (0.5 * size, low + 0.7 * sag)]
    front = path(np.concatenate([right, [(0.0, low + sag)], mirrored(right)]))
    crown = head.on_outline(np.concatenate([dome, front]))
    dark = scaled(wear.hat_color, 0.2)
    canvas.shade([head.on_outline(ellipse((0.0, low + 0.12), (0.9 * w, 0.14)))], 0.05 * scale, (16, 8, 6), 0.5)
    patch = canvas.paint(crown, texture, HAT)
    away = -np.sign(head.face.light.direction[0]) or 1.0
    canvas.shade([head.on_outline(ellipse((away * size, -0.8), (0.45, 0.8)))], 0.13 * scale, dark, 0.65, patch)
    band = head.on_outline(front)
    thick = 0.03 if wear.hat == "beanie" else 0.16
    canvas.within(patch, [ribbon(moved(band, 0.0, -0.1 * scale), thick * scale)], dark, 0.7 * (wear.hat != "cap"))
    if wear.hat != "beanie":
        _paint_brim(canvas, head, texture, size, low + sag)


def _dome(size: float, low: float, top: float, power: float) -> Points:
    """The outline of a hat's crown from (-size, low) to (size, low); a smaller power makes it boxier."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, 20)
    u = size * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.8
    return np.stack([u, low - (low - top) * np.abs(np.cos(angle)) ** power], axis=1)


def _paint_brim(canvas: Canvas, head: Head, texture: Image, size: float, low: float) -> None:
    """Paints the visor of a cap or the brim of a hat."""
    wear, scale = head.face.wear, head.face.pose.scale
    if wear.hat == "cap":
        center = head.turn([(0.0, low)], lift=0.3)[0]
        reach = 0.6 * size
        visor = points([(-1.2, -0.1), (-1, 0.05), (-0.4, 0.12), (0.4, 0.12), (1, 0.05), (1.2, -0.1), (0.0, -0.12)])
        brim = head.place(closed(visor * (reach, 1) * (head.cos, 1 + head.pitch) + center))
    else:
        brim = head.on_outline(ellipse((0.0, low - 0.08), (1.75 * size, 0.16 - 0.3 * head.pitch)))
    patch = canvas.paint(brim, texture, HAT)
    canvas.shade([moved(brim, 0.0, 0.07 * scale)], 0.03 * scale, scaled(wear.hat_color, 0.15), 0.6, patch)
