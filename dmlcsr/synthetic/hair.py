"""Hair: its outlines behind and in front of the face, fringes and loose strands."""

import numpy as np

from .canvas import Canvas, Image, Patch, scaled
from .curves import Points, closed, ellipse, mirrored, moved, path, points, ribbon
from .head import Head
from .labels import HAIR
from .texture import ramp, strands

Rng = np.random.Generator

_COVERS_SIDES = ("medium", "long")


class HairPainter:
    """Paints the hair of one head: `paint_back` before the neck, `paint_front` after the face."""

    def __init__(self, head: Head, rng: Rng, size: int) -> None:
        self.head = head
        self.hair = head.face.hair
        # Low-frequency wobble of the outline: without it, hair looks like a helmet.
        rough = 0.035 if self.hair.style == "curly" else 0.014
        self._phases = rng.uniform(0, 2 * np.pi, 4)
        self._weights = rng.normal(0, rough, 4)
        self._rng = rng
        self.texture = self._texture(size)

    @property
    def bald(self) -> bool:
        """True if the head has no hair."""
        return self.hair.style == "bald"

    def paint_back(self, canvas: Canvas) -> None:
        """Paints the hair that is seen behind the head and the neck."""
        if self.bald or self.hair.style in ("buzz", "short"):
            return
        hair, head = self.hair, self.head
        if hair.style == "bun":
            center = head.on_outline([(0.25 * np.sign(hair.parting), -1.12)])
            canvas.paint(head.disc(center, 0.27), self.texture, HAIR)
        mane = canvas.paint(head.on_outline(self._mane()), self.texture, HAIR)
        # The inside of the hair, behind the neck, gets no light.
        canvas.shade([head.on_outline(ellipse((0.0, 0.75), (0.62, 0.7)))], 0.03, (8, 6, 6), 0.6, mane)

    def paint_front(self, canvas: Canvas, skin: Patch | None) -> None:
        """Paints the hair on the skull and at the sides, the fringe and loose strands; its shadows fall on `skin`."""
        if self.bald:
            return
        drop = 0.06 * self.head.face.pose.scale
        shapes = [self._cap(), *self._curtains(), *self._fringe()]
        canvas.shade([moved(s, 0.0, drop) for s in shapes], 0.012, (20, 10, 8), 0.45, skin)
        opacity = 0.82 if self.hair.style == "buzz" else 1.0
        canvas.paint(shapes, self.texture, HAIR, opacity)
        if loose := self._strands():
            canvas.paint(loose, scaled(self.hair.color, 0.85), HAIR, 0.9)

    def _texture(self, size: int) -> Image:
        head, hair = self.head, self.hair
        crown = head.on_outline([(0.6 * hair.parting, -1.25)])[0]
        light = np.arctan2(head.face.light.direction[1], head.face.light.direction[0])
        reach = (1.9 + hair.length) * head.face.pose.scale
        gray = strands(self._rng, size, (crown[0], crown[1]), reach, hair.waviness, float(light))
        r, g, b = hair.color
        return ramp(gray, (0.3 * r, 0.28 * g, 0.28 * b), (1.5 * r + 30, 1.5 * g + 26, 1.5 * b + 22))

    def _wobble(self, t: Points) -> Points:
        frequencies = np.array([3.0, 6.0, 10.0, 17.0])
        return np.asarray(np.sin(t[:, None] * frequencies + self._phases) @ self._weights, np.float64)

    def _arc(self, low: float, num: int = 44) -> Points:
        """The outer edge of the hair over the skull in the frontal frame, from (left, low) to (right, low)."""
        w, volume = self.head.half_width, self.hair.volume
        angle = np.linspace(-np.pi / 2, np.pi / 2, num)
        u = (w + 0.02 + 0.6 * volume) * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** 0.82
        v = low - (low + 1.0 + volume) * np.abs(np.cos(angle)) ** 0.75
        swell = (1.03 + np.maximum(self._wobble(angle), -0.03))[:, None]
        return np.stack([u, v], axis=1) * swell

    def _mane(self) -> Points:
        """The outline of the hair behind the head in the frontal frame, down to the hair's length."""
        hair, w = self.hair, self.head.half_width
        arc = self._arc(0.0)
        side = w + 0.02 + 0.6 * hair.volume
        low = max(hair.length, 0.15)
        flare = 1.0 + 0.12 * min(low, 1.5)
        right = [(side * flare, 0.55 * low), (side * flare * 1.02, 0.9 * low), (side * 0.8, low)]
        tips = np.linspace(0.7, -0.7, 9) * side
        ragged = low + 0.05 * np.where(np.arange(9) % 2, 1.0, -1.0)
        bottom = list(zip(tips.tolist(), ragged.tolist(), strict=True))
        left = [(-u, v) for u, v in right[::-1]]
        down = path([(float(arc[-1, 0]), 0.0), *right])
        up = path([*left, (float(arc[0, 0]), 0.0)])
        return np.concatenate([arc, down, points(bottom), up])

    def _cap(self) -> Points:
        """The polygon of the hair on the skull down to the hairline, in the picture."""
        hair, w = self.hair, self.head.half_width
        side = 0.02 if hair.style == "buzz" else 0.1
        line, part = hair.hairline, hair.parting
        low = -0.05 if hair.style in ("buzz", "bun") else 0.08
        outer = self.head.on_outline(self._arc(low))
        right = [(0.985 * w, low), (0.94 * w, -0.18), (0.86 * w, -0.36), (0.62 * w, line + side * 0.6),
                 (0.3 * w, line - 0.02)]  # fmt: skip
        inner = np.concatenate([right, [(part * w, line - 0.05)], mirrored(right)])
        return np.concatenate([outer, self._hairline(inner)])

    def _hairline(self, inner: Points) -> Points:
        """The hairline in the picture. Its ends lie on the silhouette, its middle on the forehead's surface."""
        curve = path(inner)
        on_side = np.clip((np.abs(curve[:, :1]) / self.head.half_width - 0.7) / 0.28, 0, 1)
        turned = self.head.turn(curve) * (1 - on_side) + self.head.turn_outline(curve) * on_side
        return self.head.place(turned)

    def _curtains(self) -> list[Points]:
        """Polygons of the hair that falls in front of the ears on both sides."""
        if self.hair.style not in _COVERS_SIDES:
            return []
        hair, w = self.hair, self.head.half_width
        outer, low = w + 0.04 + 0.6 * hair.volume, hair.length
        shapes = []
        for side in (-1, 1):
            cover = self._rng.uniform(0.02, 0.2)
            sway = self._rng.uniform(-0.06, 0.06)
            flat = [(0.2 * w, hair.hairline - 0.12), (0.62 * w, -0.48), ((0.95 - cover) * w, -0.15),
                    ((0.98 - cover) * w, 0.3 * low + 0.1), ((0.9 - cover) * w + sway, 0.75 * low),
                    (0.85 * w + sway, low + 0.08),
                    (outer + 0.06, 0.95 * low), (outer + 0.1, 0.5 * low), (outer, 0.0), (outer - 0.02, -0.4),
                    (0.7 * w, -0.92), (0.3 * w, -1.0)]  # fmt: skip
            shapes.append(self.head.on_outline(closed(points(flat) * (side, 1))))
        return shapes

    def _fringe(self) -> list[Points]:
        """Polygons of locks over the forehead, which overlap and taper from the hairline to the brows or beyond."""
        hair, w = self.hair, self.head.half_width
        if hair.fringe == "none":
            return []
        depth = self._rng.uniform(-0.36, -0.12)
        if hair.fringe == "full":
            roots = np.linspace(-0.85, 0.85, 9) * w
            drift = np.full(9, self._rng.uniform(-0.12, 0.12))
            lows = depth + self._rng.normal(0, 0.04, 9) + 0.12 * (roots / w) ** 2
        else:
            toward = np.sign(hair.parting) or 1.0
            roots = hair.parting * w - toward * np.linspace(0, 0.75, 6) * w
            drift = -toward * np.linspace(0.35, 0.1, 6)
            lows = np.linspace(-0.5, depth + 0.15, 6)
        return [self._lock(float(u), float(d), float(low)) for u, d, low in zip(roots, drift, lows, strict=True)]

    def _lock(self, u: float, drift: float, low: float) -> Points:
        w, top = self.head.half_width, self.hair.hairline - 0.16
        line = path([(u, top), (u + 0.35 * drift, 0.5 * (top + low)), (u + drift, low)])
        width = self._rng.uniform(0.2, 0.3)
        line[:, 0] = np.clip(line[:, 0], -0.97 * w, 0.97 * w)
        profile = width * (1 - np.linspace(0, 1, len(line)) ** 2.2)
        return self.head.on_face(ribbon(line, profile), lift=0.05)

    def _strands(self) -> list[Points]:
        """Polygons of thin loose strands over forehead, brow, eye or cheek."""
        w, found = self.head.half_width, []
        for _ in range(self.hair.strands):
            side = -1 if self._rng.random() < 0.5 else 1
            u = self._rng.uniform(0.0, 0.5) * w
            end, low = u + self._rng.uniform(0.08, 0.6) * (0.95 * w - u), self._rng.uniform(-0.3, 0.35)
            top, bend = self.hair.hairline - 0.1, self._rng.uniform(0.0, 0.12)
            high, mid = top + 0.35 * (low - top), top + 0.7 * (low - top)
            flat = [(u, top), (0.6 * u + 0.4 * end + bend, high), (end + 0.4 * bend, mid), (end, low)]
            line = path(points(flat) * (side, 1))
            profile = self._rng.uniform(0.015, 0.05) * (1 - np.linspace(0, 1, len(line)) ** 3) + 0.004
            found.append(self.head.on_face(ribbon(line, profile), lift=0.06))
        return found
