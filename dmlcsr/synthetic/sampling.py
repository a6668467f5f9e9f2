"""Draws the parameters of a face. Every function draws its numbers from one generator, in a fixed order."""

from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from .canvas import Color
from .face import Brows, Eyes, Face, Hair, Light, Mouth, Pose, Skin, Wear

Rng = np.random.Generator

_SKIN_TONES = ((242, 208, 184), (234, 194, 160), (226, 178, 136), (199, 142, 101), (151, 98, 66), (105, 66, 45),
               (70, 44, 34))  # fmt: skip
_HAIR_TONES = ((24, 20, 20), (38, 28, 24), (62, 42, 30), (94, 62, 40), (134, 84, 48), (196, 156, 98), (226, 198, 146),
               (150, 148, 146), (214, 212, 208), (132, 48, 28))  # fmt: skip
_HAIR_WEIGHTS = (0.2, 0.17, 0.15, 0.12, 0.09, 0.08, 0.05, 0.05, 0.04, 0.05)
_IRIS_TONES = ((66, 44, 28), (92, 62, 36), (120, 94, 54), (78, 104, 78), (84, 118, 148), (112, 128, 138))
_JEWELS = ((222, 184, 92), (206, 208, 214), (188, 128, 104), (236, 232, 224), (60, 120, 170), (160, 40, 60))


def sample_face(rng: Rng) -> Face:
    """Draws a face that fills the picture like a loose, roughly aligned face crop."""
    female = rng.random() < 0.5
    skin_color = _skin_color(rng)
    hair = _hair(rng, female)
    wear = _wear(rng, female)
    if wear.hat and hair.style == "bun":  # the bun would stand through the hat
        wear = replace(wear, hat="")
    return Face(
        pose=_pose(rng),
        half_width=_normal(rng, 0.7, 0.03, 0.63, 0.78),
        jaw=_normal(rng, 0.9 if female else 1.0, 0.06, 0.76, 1.12),
        chin=_normal(rng, 0.9 if female else 1.1, 0.12, 0.7, 1.4),
        nose_width=_normal(rng, 0.15, 0.018, 0.11, 0.2),
        nose_length=_normal(rng, 0.0, 0.03, -0.06, 0.07),
        ear_size=_normal(rng, 1.0, 0.12, 0.75, 1.3),
        eyes=_eyes(rng, female),
        brows=_brows(rng, female, hair.color),
        mouth=_mouth(rng, female, skin_color),
        skin=_skin(rng, female, skin_color, hair.color),
        light=_light(rng),
        hair=hair,
        wear=wear,
    )


def sample_bystander(rng: Rng) -> Face:
    """Draws a second face, which is smaller and partly visible at the picture's left or right border."""
    face = sample_face(rng)
    side = rng.uniform(-0.06, 0.06)
    center = (side if rng.random() < 0.5 else 1.0 - side, rng.uniform(0.3, 0.62))
    return replace(face, pose=replace(face.pose, scale=rng.uniform(0.17, 0.27), center=center))


def _normal(rng: Rng, mean: float, deviation: float, low: float, high: float) -> float:
    return min(max(rng.normal(mean, deviation), low), high)


def _draw(rng: Rng, weights: Sequence[float]) -> int:
    """Draws an index with probability proportional to its weight; it takes one number from the generator."""
    place = rng.random() * sum(weights)
    return min(bisect(list(accumulate(weights)), place), len(weights) - 1)


def _pick(rng: Rng, names: Sequence[str], weights: Sequence[float]) -> str:
    return names[_draw(rng, weights)]


def _jitter(rng: Rng, color: Sequence[float], amount: float) -> Color:
    r, g, b = np.clip(np.asarray(color) + rng.normal(0, amount, 3), 4, 252).tolist()
    return r, g, b


def _any_color(rng: Rng) -> Color:
    """Draws a color; dull colors are more frequent than saturated ones."""
    gray = rng.uniform(20, 235)
    loudness = rng.beta(1.2, 2.0)
    r, g, b = np.clip(gray + loudness * rng.uniform(-150, 150, 3), 8, 248).tolist()
    return r, g, b


def _skin_color(rng: Rng) -> Color:
    place = rng.random() ** 1.25 * (len(_SKIN_TONES) - 1)
    low = min(int(place), len(_SKIN_TONES) - 2)
    tones = np.asarray(_SKIN_TONES, dtype=np.float64)
    return _jitter(rng, (tones[low] + (place - low) * (tones[low + 1] - tones[low])).tolist(), 4)


def _pose(rng: Rng) -> Pose:
    return Pose(
        yaw=_normal(rng, 0, 0.28, -0.68, 0.68),
        pitch=_normal(rng, 0, 0.09, -0.22, 0.22),
        roll=_normal(rng, 0, 0.11, -0.45, 0.45),
        scale=rng.uniform(0.28, 0.405),
        center=(_normal(rng, 0.5, 0.04, 0.4, 0.6), _normal(rng, 0.48, 0.03, 0.42, 0.56)),
    )


def _eyes(rng: Rng, female: bool) -> Eyes:
    both = _normal(rng, 0.95, 0.17, 0.4, 1.35)
    left, right = (_normal(rng, both, 0.05, 0.2, 1.4) for _ in range(2))
    if (blink := rng.random()) < 0.05:
        left = 0.16
    if blink < 0.03 or 0.05 < blink < 0.07:  # more often both eyes than one
        right = 0.16
    return Eyes(
        gap=_normal(rng, 0.3, 0.014, 0.26, 0.34),
        width=_normal(rng, 0.145, 0.01, 0.12, 0.17),
        openness=(left, right),
        tilt=_normal(rng, 0.07, 0.07, -0.12, 0.25),
        iris=_jitter(rng, _IRIS_TONES[int(rng.integers(len(_IRIS_TONES)))], 8),
        gaze=(_normal(rng, 0, 0.22, -0.5, 0.5), _normal(rng, 0, 0.12, -0.3, 0.3)),
        makeup=float(rng.random() * female),
    )


def _brows(rng: Rng, female: bool, hair: Color) -> Brows:
    dark = np.asarray(hair) * 0.72
    return Brows(
        height=_normal(rng, -0.215, 0.03, -0.3, -0.16),
        thickness=_normal(rng, 0.045 if female else 0.06, 0.01, 0.028, 0.085),
        arch=_normal(rng, 0.05, 0.02, 0.0, 0.1),
        tilt=_normal(rng, 0.0, 0.12, -0.3, 0.3),
        color=_jitter(rng, dark.tolist(), 6),
    )


def _mouth(rng: Rng, female: bool, skin: Color) -> Mouth:
    smile = _normal(rng, 0.25, 0.4, -0.5, 1.0)
    opening = float(rng.gamma(1.6, 0.045)) if rng.random() < 0.5 else 0.0
    red = np.array([0.85, 0.6, 0.6]) * np.asarray(skin)
    if female and rng.random() < 0.5:
        red = 0.35 * red + 0.65 * np.array([rng.uniform(120, 205), rng.uniform(20, 90), rng.uniform(40, 110)])
    return Mouth(
        width=_normal(rng, 0.25 + 0.05 * smile, 0.022, 0.19, 0.35),
        height=_normal(rng, 0.6, 0.02, 0.54, 0.65),
        upper=_normal(rng, 0.062, 0.012, 0.036, 0.1),
        lower=_normal(rng, 0.085, 0.015, 0.05, 0.125),
        opening=min(opening, 0.24),
        smile=smile,
        teeth=rng.uniform(0.25, 1.0),
        color=_jitter(rng, red.tolist(), 6),
    )


def _skin(rng: Rng, female: bool, color: Color, hair: Color) -> Skin:
    kinds = ("none", "stubble", "full", "goatee", "moustache")
    beard = _pick(rng, kinds, (0.45, 0.2, 0.15, 0.12, 0.08))
    return Skin(
        color=color,
        blush=rng.uniform(0.0, 1.0),
        freckles=float(rng.uniform(0.3, 1.0) if rng.random() < 0.2 else 0.0),
        age=float(rng.beta(1.2, 2.5)),
        gloss=rng.uniform(0.0, 0.22),
        beard="none" if female else beard,
        beard_color=_jitter(rng, (np.asarray(hair) * 0.8).tolist(), 6),
    )


def _light(rng: Rng) -> Light:
    warmth, green = _normal(rng, 0.03, 0.045, -0.06, 0.14), _normal(rng, 0.99, 0.012, 0.95, 1.02)
    direction = (rng.normal(0, 0.55), rng.normal(-0.45, 0.3), 1.0)
    return Light(direction, ambient=rng.uniform(0.25, 0.6), tint=(1 + warmth, green, 1 - warmth))


def _hair(rng: Rng, female: bool) -> Hair:
    kinds = ("bald", "buzz", "short", "medium", "long", "bun", "curly")
    weights = (1, 3, 10, 26, 38, 12, 10) if female else (10, 16, 46, 10, 5, 3, 10)
    style = _pick(rng, kinds, weights)
    tone = _HAIR_TONES[_draw(rng, _HAIR_WEIGHTS)]
    color = _any_color(rng) if rng.random() < 0.03 else _jitter(rng, tone, 7)
    volume = {"bald": 0.0, "buzz": 0.02, "short": 0.09, "bun": 0.05, "curly": 0.26}.get(style, 0.13)
    length = {"medium": rng.uniform(0.55, 1.0), "long": rng.uniform(1.2, 2.2)}.get(style, rng.uniform(0.1, 0.45))
    fringe = _pick(rng, ("none", "full", "side"), (0.5, 0.2, 0.3))
    return Hair(
        style=style,
        color=color,
        volume=volume * rng.uniform(0.75, 1.35),
        length=length,
        hairline=_normal(rng, -0.6 if female else -0.65, 0.05, -0.8, -0.5),
        parting=rng.uniform(-0.3, 0.3),
        fringe="none" if style in ("bald", "buzz", "bun") else fringe,
        strands=0 if style in ("bald", "buzz") else int(rng.integers(1, 7)) * int(rng.random() < 0.35),
        waviness=float(rng.beta(1.0, 2.0)),
    )


def _wear(rng: Rng, female: bool) -> Wear:
    return Wear(
        glasses=_pick(rng, ("", "clear", "sun"), (0.76, 0.18, 0.06)),
        glasses_color=_any_color(rng) if rng.random() < 0.4 else _jitter(rng, (36, 32, 32), 8),
        glasses_shape=rng.uniform(2.0, 5.0),
        hat=_pick(rng, ("", "beanie", "cap", "brim"), (0.82, 0.07, 0.06, 0.05)),
        hat_color=_any_color(rng),
        earrings=_pick(rng, ("", "stud", "hoop", "drop"), (0.45, 0.12, 0.2, 0.23) if female else (0.88, 0.08, 0.04, 0)),
        necklace=_pick(rng, ("", "chain", "beads", "pendant"), (55, 15, 15, 15) if female else (88, 10, 0, 2)),
        jewel=_jitter(rng, _JEWELS[int(rng.integers(len(_JEWELS)))], 8),
        collar=_pick(rng, ("round", "v", "wide", "turtle", "shirt"), (0.34, 0.2, 0.2, 0.1, 0.16)),
        cloth=_pick(rng, ("plain", "stripes", "checks", "noise"), (0.5, 0.2, 0.1, 0.2)),
        cloth_colors=(_any_color(rng), _any_color(rng)),
    )
