"""Geometry of the head: it maps the flat frontal face to the turned head, and the turned head to the picture.

The face is the front of an upright elliptic cylinder. Yaw moves a feature sideways in proportion to its depth and
compresses the far side; pitch moves it vertically. The silhouette hardly changes its width, so it has a separate
mapping, which the hair and the hat share.
"""

import math

import numpy as np
import numpy.typing as npt

from .curves import PointList, Points, closed, ellipse, mirrored, path, points
from .face import Face

_DEPTH = 0.6  # distance of the face from the axis of rotation, in head-frame units
_RECENTER = 0.42  # fraction of the sideways motion by yaw that the crop follows
_BODY_FOLLOWS = 0.3  # fraction of the head's roll that the shoulders follow


class Head:
    """The mapping of head-frame points of one face to the picture. Polygons are returned in unit image coordinates."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.half_width = face.half_width
        pose = face.pose
        self.sin, self.cos, self.pitch = math.sin(pose.yaw), math.cos(pose.yaw), pose.pitch
        self._matrix = _similarity(pose.roll, pose.scale)
        self._body_matrix = _similarity(pose.roll * _BODY_FOLLOWS, pose.scale)
        self._center = np.asarray(pose.center)

    def place(self, p: PointList) -> Points:
        """Maps points from the turned head frame to the picture."""
        return np.asarray(points(p) @ self._matrix + self._center, np.float64)

    def body(self, p: PointList) -> Points:
        """Maps points from the body frame, which follows only a part of the head's roll, to the picture."""
        return np.asarray(points(p) @ self._body_matrix + self._center, np.float64)

    def turn(self, p: PointList, lift: float | npt.NDArray[np.float64] = 0.0) -> Points:
        """Maps points at distance `lift` in front of the face's surface to the turned head frame."""
        p = points(p)
        depth = _DEPTH * np.sqrt(np.maximum(1 - (p[:, 0] / self.half_width) ** 2, 0)) + lift
        out = np.empty_like(p)
        out[:, 0] = p[:, 0] * self.cos + (depth - _RECENTER * _DEPTH) * self.sin
        out[:, 1] = p[:, 1] + self.pitch * (depth - 0.5 * _DEPTH)
        return out

    def on_face(self, p: PointList, lift: float = 0.0) -> Points:
        """Maps points on the face to the picture."""
        return self.place(self.turn(p, lift))

    def turn_outline(self, p: PointList) -> Points:
        """Maps points on the head's silhouette to the turned head frame."""
        p = points(p)
        forward = np.minimum(np.maximum(p[:, 1] - 0.1, 0), 0.9)  # the chin stands further in front than the skull
        far = np.sign(p[:, 0]) * self.sin > 0
        u = p[:, 0] * np.where(far, 1 - 0.2 * abs(self.sin), 1 - 0.03 * abs(self.sin))
        out = np.empty_like(p)
        out[:, 0] = u + self.sin * (0.04 + 0.3 * forward)
        out[:, 1] = p[:, 1] + self.pitch * 0.25 * forward
        return out

    def on_outline(self, p: PointList) -> Points:
        """Maps points on the head's silhouette to the picture."""
        return self.place(self.turn_outline(p))

    def is_far(self, side: int) -> bool:
        """True if the ear of this side (-1: viewer's left, +1: right) has turned out of view."""
        return side * self.sin > 0.28

    def contour(self) -> Points:
        """The outline of the head without hair: forehead, cheeks, chin."""
        w, jaw, chin = self.half_width, self.face.jaw, self.face.chin
        right = [(0.0, -1.0), (0.6 * w, -0.92), (0.92 * w, -0.62), (w, -0.15), (0.97 * w, 0.22),
                 (0.86 * w * jaw, 0.55), (0.55 * w * jaw, 0.83), (0.19 * chin * jaw, 0.97)]  # fmt: skip
        bottom = [(0.0, 1.0)]
        return self.on_outline(closed(np.concatenate([right, bottom, mirrored(right[1:])])))

    def ear(self, side: int, inner: bool = False) -> Points:
        """One ear, or its inner hollow. `side` is -1 for the viewer's left, +1 for the right."""
        turned = max(0.0, -side * self.sin)  # how much this side faces the viewer
        size = self.face.ear_size * (0.55 if inner else 1.0)
        center_u = side * (self.half_width + 0.035 - 0.2 * turned)
        rim = [(-0.07, -0.16), (0.03, -0.21), (0.1, -0.14), (0.085, 0.0), (0.05, 0.14), (-0.02, 0.2), (-0.07, 0.1)]
        shape = closed(rim) * (side * size * (1 + 0.7 * turned), size) + (center_u, 0.08)
        return self.on_outline(shape)

    def lobe(self, side: int) -> Points:
        """(1, 2) position of the ear lobe, from which an earring hangs."""
        turned = max(0.0, -side * self.sin)
        u = side * (self.half_width + 0.02 - 0.2 * turned)
        return self.on_outline([(u, 0.08 + 0.18 * self.face.ear_size)])

    def nose(self) -> Points:
        """The nose, from between the eyes down to the nostrils; its tip is furthest in front."""
        w, tip = self.face.nose_width, 0.36 + self.face.nose_length
        right = [(0.0, -0.16), (0.055, -0.1), (0.05, 0.06), (0.075, 0.18), (w * 0.95, tip - 0.1), (w, tip - 0.03),
                 (0.6 * w, tip + 0.025)]  # fmt: skip
        bottom = [(0.0, tip + 0.055)]
        flat = np.concatenate([right, bottom, mirrored(right[1:])])
        lift = np.interp(flat[:, 1], (-0.16, tip), (0.02, 0.14)) * (1 - np.abs(flat[:, 0]) / (2.2 * w))
        return self.place(closed(self.turn(flat, lift)))

    def eye(self, side: int) -> Points:
        """The visible eyeball, between the lids."""
        eyes = self.face.eyes
        open_ = eyes.openness[0 if side < 0 else 1]
        up, down = 0.085 * open_, 0.05 * open_
        rim = [(-1, 0.01), (-0.55, -0.75 * up), (0.05, -up), (0.6, -0.72 * up), (1, 0.0), (0.5, 0.85 * down),
               (-0.1, down), (-0.6, 0.7 * down)]  # fmt: skip
        flat = points(rim) * (eyes.width, 1.0)
        flat[:, 1] -= eyes.tilt * flat[:, 0]
        return self.on_face(closed(flat * (side, 1) + (side * eyes.gap, 0.0)))

    def eye_center(self, side: int, du: float = 0.0, dv: float = 0.0) -> Points:
        """(1, 2) center of an eye, moved by (du, dv)."""
        return self.on_face([(side * self.face.eyes.gap + du, dv)])

    def lid(self, side: int, above: float) -> Points:
        """An open curve at distance `above` over the edge of the upper lid: 0 for the lashes, more for the crease."""
        eyes = self.face.eyes
        up = 0.085 * eyes.openness[0 if side < 0 else 1]
        flat = points([(-1.0, 0.01), (-0.55, -0.75 * up), (0.05, -up), (0.6, -0.72 * up), (1.06, -0.005)])
        flat = flat * (eyes.width, 1.0) - (0, above)
        flat[:, 1] -= eyes.tilt * flat[:, 0]
        return self.on_face(path(flat * (side, 1) + (side * eyes.gap, 0.0)))

    def brow(self, side: int) -> Points:
        """One eyebrow, which is thinner towards its outer end."""
        brows, eyes = self.face.brows, self.face.eyes
        t, arch = brows.thickness, brows.arch
        rim = [(-0.155, 0.4 * t), (-0.15, -0.55 * t), (-0.02, -arch * 0.7 - 0.6 * t), (0.09, -arch - 0.45 * t),
               (0.195, 0.02 - 0.2 * arch), (0.09, -arch + 0.45 * t), (-0.02, -arch * 0.7 + 0.45 * t)]  # fmt: skip
        flat = points(rim)
        flat[:, 1] += brows.height - brows.tilt * 0.5 * flat[:, 0]
        return self.on_face(closed(flat * (side, 1) + (side * (eyes.gap - 0.005), 0)), lift=0.03)

    def lips(self) -> tuple[Points, Points, Points]:
        """(upper lip, lower lip, interior) as polygons; the interior's begins with its upper edge."""
        m = self.face.mouth
        corner = m.height - 0.055 * m.smile
        half, w = 0.5 * m.opening, m.width
        above, below = m.height - half, m.height + half
        bow = [(-0.55 * w, above - 0.75 * m.upper), (-0.18 * w, above - 1.05 * m.upper), (0, above - 0.82 * m.upper)]
        top = _across([(-w, corner), *bow])
        inner_top = _across([(-0.93 * w, corner), (-0.5 * w, above), (0, above + 0.012)])
        inner_bottom = _across([(-0.93 * w, corner), (-0.5 * w, m.height + 0.8 * half), (0, below + 0.012)])
        bottom = _across([(-w, corner), (-0.55 * w, below + 0.75 * m.lower), (0, below + m.lower)])
        pairs = ((top, inner_top), (inner_bottom, bottom), (inner_top, inner_bottom))
        upper, lower, interior = (self.on_face(np.concatenate([a, b[::-1]]), lift=0.06) for a, b in pairs)
        return upper, lower, interior

    def neck(self) -> Points:
        """The neck, from behind the jaw down to the chest. Its top moves with the head, its bottom with the body."""
        half = 0.58 * self.half_width + 0.06 * (self.face.jaw - 0.9)
        top = self.on_outline([(-half, 0.4), (half, 0.4)])
        right = self.body(path([(half * 1.02, 1.12), (half * 1.15, 1.3), (half * 2.1, 1.55), (half * 2.2, 2.4)]))
        left = self.body(path([(-half * 2.2, 2.4), (-half * 2.1, 1.55), (-half * 1.15, 1.3), (-half * 1.02, 1.12)]))
        return np.concatenate([top, right, left])

    def disc(self, center: Points, radius: float, squash: float = 1.0) -> Points:
        """An ellipse in the picture around a point (1, 2) of the picture.

        `radius` is its half height in head-frame units; its half width is `squash` times as large.
        """
        round_ = ellipse((0, 0), (radius * squash, radius)) @ self._matrix
        return np.asarray(round_ + center[0], np.float64)


def _similarity(roll: float, scale: float) -> Points:
    """(2, 2) matrix of rotation and scale, which row vectors are multiplied by."""
    c, s = math.cos(roll) * scale, math.sin(roll) * scale
    return np.array([[c, s], [-s, c]])


def _across(left_half: PointList) -> Points:
    """A smooth curve through the points of its left half, the last one on the midline, and their mirror image."""
    return path(np.concatenate([points(left_half), mirrored(left_half[:-1])]))
