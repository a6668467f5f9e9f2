"""Polygons from few control points. Points are (N, 2) float64 arrays of (x, y) in any coordinate frame."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
PointList = Sequence[tuple[float, float]] | Points

_STEPS = 6
_T = np.linspace(0.0, 1.0, _STEPS, endpoint=False)
# Catmull-Rom basis, (steps, 4): a smooth curve that goes through its control points.
_BASIS = 0.5 * np.stack(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, _T**3 - _T**2], axis=1
)
_NEIGHBORS = np.array([-1, 0, 1, 2])
_CIRCLE = np.stack([np.cos(a := np.linspace(0, 2 * np.pi, 28, endpoint=False)), np.sin(a)], axis=1)


def points(control: PointList) -> Points:
    """(N, 2) float64 array of the control points."""
    return np.asarray(control, dtype=np.float64)


def closed(control: PointList) -> Points:
    """(6 N, 2) points of a smooth closed curve through the N control points."""
    p = points(control)
    n = len(p)
    neighbors = (np.arange(n)[:, None] + _NEIGHBORS) % n
    return np.asarray(_BASIS @ p[neighbors]).reshape(-1, 2)


def path(control: PointList) -> Points:
    """(6 (N - 1) + 1, 2) points of a smooth open curve from the first to the last of N control points."""
    p = points(control)
    n = len(p)
    neighbors = np.minimum(np.maximum(np.arange(n - 1)[:, None] + _NEIGHBORS, 0), n - 1)
    return np.concatenate([np.asarray(_BASIS @ p[neighbors]).reshape(-1, 2), p[-1:]])


def moved(p: Points, dx: float, dy: float) -> Points:
    """The points shifted by (dx, dy)."""
    return np.asarray(p + np.array([dx, dy]), np.float64)


def ellipse(center: tuple[float, float], radii: tuple[float, float], power: float = 2.0) -> Points:
    """(28, 2) points of a superellipse; power 2 gives an ellipse, larger powers approach a rectangle."""
    shape = _CIRCLE if power == 2.0 else np.sign(_CIRCLE) * np.abs(_CIRCLE) ** (2.0 / power)
    return np.asarray(shape * radii + center, np.float64)


def ribbon(center: Points, widths: npt.NDArray[np.float64] | float) -> Points:
    """The polygon of a stroke along an open curve: (N, 2) center line and (N,) full widths -> (2 N, 2)."""
    tangent, normal = np.empty_like(center), np.empty_like(center)
    tangent[1:-1] = center[2:] - center[:-2]
    tangent[0], tangent[-1] = center[1] - center[0], center[-1] - center[-2]
    half = 0.5 * widths / (np.hypot(tangent[:, 0], tangent[:, 1]) + 1e-12)
    normal[:, 0], normal[:, 1] = -tangent[:, 1] * half, tangent[:, 0] * half
    return np.concatenate([center + normal, (center - normal)[::-1]])


def loop(center: Points, width: float) -> Points:
    """The (2 N + 2, 2) polygon of a stroke along a closed curve; a seam of no width joins its outer and inner edge."""
    tangent = np.concatenate([center[1:], center[:1]]) - np.concatenate([center[-1:], center[:-1]])
    normal = tangent[:, ::-1] * (-1.0, 1.0) * (0.5 * width / (np.hypot(tangent[:, 0], tangent[:, 1])[:, None] + 1e-12))
    outer, inner = center + normal, center - normal
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def taper(num: int, middle: float, ends: float = 0.0) -> npt.NDArray[np.float64]:
    """(num,) widths of a stroke that is `middle` wide in the middle and `ends` at both ends."""
    return ends + (middle - ends) * np.sin(np.linspace(0, np.pi, num)) ** 0.7


def mirrored(control: PointList) -> Points:
    """The points with x negated and in reverse order, to close a symmetric outline."""
    return points(control)[::-1] * (-1.0, 1.0)
