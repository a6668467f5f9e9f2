"""Charts as inline SVG: lines over epochs, scatter plots and histograms. Lines differ in color and in dashes."""

import math
from collections.abc import Mapping, Sequence

from pipelines.report.page import escape

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 360, 220, 56, 42, 18, 20
"""Size and margins of a chart in SVG units; if it is about this many pixels wide, text is 12 pixels high."""
_DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 5", "1 4")


def line_chart(title: str, series: Mapping[str, Points], x_name: str, marks: Sequence[float] = ()) -> str:
    """Draws one line per series over whole numbers, and numbered dashed verticals at `marks`.

    Values that are not finite are left out. Returns an empty string if no value is left.
    """
    shown = {name: found for name, points in series.items() if (found := _finite(points))}
    if not shown:
        return ""
    frame = _Frame([point for points in shown.values() for point in points])
    body = _marks([frame.x(mark) for mark in marks])
    for number, points in enumerate(shown.values()):
        path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        body += f'<polyline points="{path}" fill="none" stroke-width="2" {_pen(number)}/>'
        if len(points) == 1:
            body += f'<circle cx="{frame.x(points[0][0]):.1f}" cy="{frame.y(points[0][1]):.1f}" r="3" {_pen(number)}/>'
    spoken = "; ".join(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}" for name, points in shown.items())
    return _figure(title, spoken, frame.axes(x_name) + body, _legend(list(shown)))


def scatter(title: str, points: Points, x_name: str, y_name: str) -> str:
    """Draws points on a logarithmic horizontal axis. Returns an empty string if no point is positive and finite."""
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


def histogram(title: str, bins: Mapping[str, int], x_name: str) -> str:
    """Draws a bar for each bin, in order. Returns an empty string if there are no bins."""
    if not bins:
        return ""
    frame = _Frame([(0, 0), (len(bins), max(bins.values()))])
    frame.x_ticks = [
        (place + 0.5, escape(name)) for place, name in enumerate(bins) if place % (1 + (len(bins) - 1) // 8) == 0
    ]
    bars = "".join(
        f'<rect x="{frame.x(place + 0.1):.1f}" y="{frame.y(count):.1f}" width="{frame.x(0.8) - frame.x(0):.1f}" '
        f'height="{frame.y(0) - frame.y(count):.1f}" fill="var(--c0)"><title>{escape(name)}: {count:,}</title></rect>'
        for place, (name, count) in enumerate(bins.items())
    )
    spoken = "; ".join(f"{name}: {count:,}" for name, count in bins.items())
    return _figure(title, spoken, frame.axes(x_name) + bars, "")


class _Frame:
    """The mapping from values to positions in the chart.

    The vertical axis ends at round numbers, and below zero only if a value is negative.
    """

    def __init__(self, points: Points, logarithmic: bool = False) -> None:
        xs, ys = zip(*points, strict=True)
        left, right = _apart(min(xs), max(xs))
        room = (right - left) * 0.05 * logarithmic  # a line may touch the edge, but a dot would be cut off
        self.x0, self.x1 = left - room, right + room
        self.x_ticks = _powers(self.x0, self.x1) if logarithmic else _whole(self.x0, self.x1)
        low, high = _apart(min(ys), max(ys))
        step = _step((high - low) / 4)
        self.y_ticks = [number * step for number in range(math.floor(low / step), math.ceil(high / step) + 1)]
        self.y0, self.y1 = self.y_ticks[0], self.y_ticks[-1]

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x0) / (self.x1 - self.x0) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_name: str) -> str:
        parts = []
        for value in self.y_ticks:
            y = self.y(value)
            parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
        for value, text in self.x_ticks:
            x = self.x(value)
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{text}</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
        return "".join(parts)


def _finite(points: Points) -> Points:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _apart(low: float, high: float) -> tuple[float, float]:
    """The bounds, moved apart if they are equal up to rounding."""
    largest = max(abs(low), abs(high))
    if high - low > 1e-9 * largest and high - low > 1e-12:
        return low, high
    room = 0.05 * largest if largest > 1e-9 else 0.5
    return low - room, high + room


def _step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)


def _whole(low: float, high: float) -> list[tuple[float, str]]:
    """Values and texts of the ticks at whole numbers within the bounds."""
    step = max(int(_step((high - low) / 6)), 1)
    return [(number * step, f"{number * step}") for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _powers(low: float, high: float) -> list[tuple[float, str]]:
    """Values and texts of the ticks at round numbers whose logarithms are within the bounds.

    If fewer than two are, the ticks are at the bounds.
    """
    exponents = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 5), (1,)):
        logarithms = [exponent + math.log10(factor) for exponent in exponents for factor in factors]
        found = [value for value in logarithms if low <= value <= high]
        if len(found) <= 6:
            break
    return [(value, f"{10**value:.3g}") for value in (found if len(found) > 1 else (low, high))]


def _marks(positions: Sequence[float]) -> str:
    parts, last = [], -math.inf
    for number, x in enumerate(positions, start=1):
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        if x - last >= 16:  # closer numbers would overlap
            parts.append(f'<text x="{x:.1f}" y="{_TOP - 5}" text-anchor="middle">{number}</text>')
            last = x
    return "".join(parts)


def _pen(number: int) -> str:
    color, dash = f"var(--c{number % 6})", _DASHES[number % len(_DASHES)]
    return f'stroke="{color}"' + (f' stroke-dasharray="{dash}"' if dash else "")


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
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}: {spoken}")}">{body}</svg>{legend}</figure>'
    )
