"""Backgrounds: gradients, noise, stripes, shapes and blurred clutter, some of it in the color of skin."""

import math
from collections.abc import Callable

import cv2
import numpy as np

from .canvas import Canvas, Color, Image
from .curves import Points, ellipse
from .texture import ramp, to_gray, value_noise

Rng = np.random.Generator

_BLURRED_SIZE = 128  # an out-of-focus background has no finer detail


def paint_background(canvas: Canvas, rng: Rng) -> str:
    """Fills the picture with a random background and returns its kind, a key of `_KINDS`."""
    names = tuple(_KINDS)
    name = names[int(rng.integers(len(names)))]
    blurred = rng.random() < 0.55
    target = Canvas(_BLURRED_SIZE) if blurred else canvas
    target.image[:] = _KINDS[name](rng, target.size)
    if rng.random() < 0.6:
        _clutter(target, rng)
    if blurred:
        soft = cv2.GaussianBlur(target.image, (0, 0), rng.uniform(0.8, 5.0))
        cv2.resize(soft, (canvas.size, canvas.size), dst=canvas.image, interpolation=cv2.INTER_CUBIC)
    return name


def _color(rng: Rng) -> Color:
    gray = rng.uniform(10, 245)
    r, g, b = np.clip(gray + rng.beta(1.0, 2.0) * rng.uniform(-140, 140, 3), 0, 255).tolist()
    return r, g, b


def _skin_like(rng: Rng) -> Color:
    bright = rng.uniform(70, 250)
    return bright, bright * rng.uniform(0.68, 0.86), bright * rng.uniform(0.5, 0.76)


def _gradient(rng: Rng, size: int) -> Image:
    corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32) * 0.6 + np.asarray(_color(rng), np.float32) * 0.4
    noise = 6 * value_noise(rng, size, (5, 60))
    field = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.add(field, cv2.merge([noise, noise, noise]), dtype=cv2.CV_8U), np.uint8)


def _noise(rng: Rng, size: int) -> Image:
    first = int(rng.integers(3, 16))
    field = value_noise(rng, size, (first, 2 * first, 5 * first, 12 * first))
    return ramp(to_gray(field), _color(rng), _color(rng))


def _stripes(rng: Rng, size: int) -> Image:
    angle, period = rng.uniform(0, math.pi), rng.uniform(0.04, 0.3)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * (2 * math.pi / period)
    wave = np.sin(math.cos(angle) * axis[None, :] + math.sin(angle) * axis[:, None])
    field = np.clip(rng.uniform(1, 6) * wave, -0.75, 0.75) + 0.25 * value_noise(rng, size, (8, 50))
    return ramp(to_gray(field.astype(np.float32)), _color(rng), _color(rng))


def _scene(rng: Rng, size: int) -> Image:
    """A scene: sky or wall above, ground or furniture below, upright blocks in between."""
    canvas = Canvas(size)
    canvas.image[:] = _gradient(rng, size)
    horizon = rng.uniform(0.35, 0.8)
    canvas.paint(_box(0.0, horizon, 1.0, 1.0), _color(rng))
    for _ in range(int(rng.integers(3, 9))):
        left, top = rng.uniform(-0.1, 1.0), rng.uniform(0.0, 0.7)
        canvas.paint(_box(left, top, left + rng.uniform(0.04, 0.3), horizon + rng.uniform(0, 0.2)), _color(rng))
    grain = 1 + np.float32(0.1) * value_noise(rng, size, (20, 80))
    return np.asarray(cv2.multiply(canvas.image, cv2.merge([grain, grain, grain]), dtype=cv2.CV_8U), np.uint8)


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _clutter(canvas: Canvas, rng: Rng) -> None:
    """Paints random shapes; a third of them have the color of skin."""
    for _ in range(int(rng.integers(3, 16))):
        color = _skin_like(rng) if rng.random() < 0.35 else _color(rng)
        center, radii = rng.uniform(0, 1, 2), rng.uniform(0.02, 0.16, 2)
        shape = ellipse((0, 0), (radii[0], radii[1]), rng.uniform(0.8, 5))
        if rng.random() < 0.4:
            shape = shape[np.sort(rng.choice(len(shape), int(rng.integers(3, 6)), replace=False))]
        angle = rng.uniform(0, math.pi)
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        canvas.paint(shape @ turn + center, color, None, rng.uniform(0.5, 1.0))


_KINDS: dict[str, Callable[[Rng, int], Image]] = {
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "scene": _scene,
}
