"""Charts as inline SVG: lines over epochs, points of a sweep. Lines differ in colour and in dashes."""

import math
from collections.abc import Mapping, Sequence

from pipelines.report.page import escape

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 480, 260, 68, 36, 12, 12
_DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 5", "1 4")


def line_chart(title: str, series: Mapping[str, Points], x_name: str, marks: Sequence[float] = ()) -> str:
    """One line per series; dashed verticals at `marks`. Values that are not finite are left out; empty without any."""
    shown = {name: found for name, points in series.items() if (found := _finite(points))}
    if not shown:
        return ""
    frame = _Frame([point for points in shown.values() for point in points])
    body = "".join(
        f'<line class="mark" x1="{frame.x(mark):.1f}" x2="{frame.x(mark):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        for mark in marks
    )
    for number, points in enumerate(shown.values()):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        body += f'<polyline points="{path}" fill="none" stroke-width="2" {_pen(number)}/>'
        if len(points) == 1:
            body += f'<circle cx="{frame.x(points[0][0]):.1f}" cy="{frame.y(points[0][1]):.1f}" r="3" {_pen(number)}/>'
    spoken = "; ".join(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in shown.items())
    return _figure(title, spoken, frame.axes(x_name) + body, _legend(list(shown)))


def scatter(title: str, points: Points, x_name: str, y_name: str) -> str:
    """Points on a logarithmic horizontal axis; empty without any."""
    found = _finite([(math.log10(x), y) for x, y in points if x > 0])
    if not found:
        return ""
    frame = _Frame(found, logarithmic=True)
    dots = "".join(
        f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="4" fill="var(--c0)" fill-opacity=".75">'
        f"<title>{10**x:.3g}: {y:.3g}</title></circle>"
        for x, y in found
    )
    best = max(found, key=lambda point: point[1])
    spoken = f"{len(found)} trials; the best {y_name} {best[1]:.4g} at {x_name} {10 ** best[0]:.3g}"
    return _figure(title, spoken, frame.axes(x_name) + dots, "")


class _Frame:
    """Where values lie in the picture."""

    def __init__(self, points: Points, logarithmic: bool = False) -> None:
        xs, ys = zip(*points, strict=True)
        self.logarithmic = logarithmic
        self.x0, self.x1 = _widened(min(xs), max(xs), 0.0)
        self.y0, self.y1 = _widened(min(ys), max(ys), 0.05)

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_name: str) -> str:
        parts = []
        for step in range(5):
            value = self.y0 + (self.y1 - self.y0) * step / 4
            y = self.y(value)
            parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        for value, anchor in ((self.x0, "start"), (self.x1, "end")):
            text = 10**value if self.logarithmic else value
            parts.append(
                f'<text x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="{anchor}">{text:.3g}</text>'
            )
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
        return "".join(parts)


def _finite(points: Points) -> Points:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """Bounds that lie apart, with some room."""
    room = (high - low) * share or (abs(low) * 0.05 or 0.5) * (low == high)
    return low - room, high + room


def _pen(number: int) -> str:
    colour, dash = f"var(--c{number % 6})", _DASHES[number % len(_DASHES)]
    return f'stroke="{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(
        f'<li><svg viewBox="0 0 32 8" aria-hidden="true"><line x1="0" x2="32" y1="4" y2="4" stroke-width="2" '
        f"{_pen(number)}/></svg>{escape(name)}</li>"
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _figure(title: str, spoken: str, body: str, legend: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(f"{title}: {spoken}")}">{body}'
        f"</svg>{legend}<figcaption>{escape(title)}</figcaption></figure>"
    )
