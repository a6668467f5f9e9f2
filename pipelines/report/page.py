"""Building blocks of a self-contained HTML page, which loads nothing and is readable without scripts.

All text is escaped.
"""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import NamedTuple

import cv2
import numpy as np

_QUALITY = 80
"""JPEG quality of pictures: a compromise between artifacts and the size of the page."""
Value = str | float | int | None


class Column(NamedTuple):
    """A column of a table. `percent` shows fractions as percent with `digits`; `bar` also draws 0..1 as a length."""

    name: str
    percent: bool = False
    digits: int = 2
    bar: bool = False


class Picture(NamedTuple):
    """An image file, its alternative text for screen readers, and its caption."""

    data: bytes
    alt: str
    caption: str


def page(title: str, lead: str, sections: Iterable[tuple[str, str]]) -> bytes:
    """The HTML page as bytes. Sections are pairs of heading and content; empty ones are left out."""
    shown = [(f"s{number}", name, body) for number, (name, body) in enumerate(sections) if body]
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _ in shown)
    bodies = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(name)}</h2>{body}</section>'
        for key, name, body in shown
    )
    style, script = (resources.files(__package__).joinpath(name).read_text() for name in ("style.css", "table.js"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title><style>{style}</style></head>
<body><a class="skip" href="#main">Skip to content</a>
<header><h1>{escape(title)}</h1><p>{escape(lead)}</p><nav aria-label="Sections"><ul>{links}</ul></nav></header>
<main id="main">{bodies}</main><script>{script}</script></body></html>
""".encode()


def escape(value: object) -> str:
    return html.escape(str(value))


def note(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def facts(values: Mapping[str, object]) -> str:
    """A list of names and values, as HTML."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{rows}</dl>'


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Value]], filtered: bool = False) -> str:
    """A table whose columns can be sorted, as HTML. The first column names the row.

    With `filtered`, a search field above the table filters its rows.
    """
    rows = list(rows)
    kinds = [_kind([row[number] for row in rows]) for number in range(len(columns))]
    head = "".join(
        f'<th scope="col" aria-sort="none"{kind}><button type="button">{escape(column.name)}'
        '<span class="arrow" aria-hidden="true"></span></button></th>'
        for column, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(f"<tr>{''.join(_cells(columns, row))}</tr>" for row in rows)
    search = _search("rows", caption) if filtered else ""
    return (
        f'<div class="block">{search}<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="sortable"><caption><span>{escape(caption)}</span></caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _kind(values: Iterable[Value]) -> str:
    """The HTML attribute of a column heading: numbers are aligned to the right, texts need none."""
    return "" if any(isinstance(value, str) for value in values) else ' class="number"'


def _search(what: str, where: str) -> str:
    """A search field that filters the rows or pictures below it, and a counter of the remaining ones."""
    return (
        f'<div class="filter"><label>Filter {what}: <input type="search" aria-label="Filter {what}: {escape(where)}">'
        "</label> <output></output></div>"
    )


def _cells(columns: Sequence[Column], row: Sequence[Value]) -> Iterable[str]:
    for number, (column, value) in enumerate(zip(columns, row, strict=True)):
        if number == 0:
            yield f'<th scope="row">{escape(value)}</th>'
        elif value is None:
            yield '<td class="number" data-value="-Infinity">–</td>'
        elif isinstance(value, str):
            yield f"<td>{escape(value)}</td>"
        else:
            yield _number(column, value)


def _number(column: Column, value: float) -> str:
    if column.percent:
        text = f"{100 * value:z.{column.digits}f} %"
    elif isinstance(value, int):
        text = f"{value:,d}"
    else:
        text = f"{value:.{column.digits}{'f' if column.bar else 'g'}}"
    width = 100 * min(max(value, 0.0), 1.0)
    bar = f'<span class="bar" aria-hidden="true"><span style="width:{width:.1f}%"></span></span>' if column.bar else ""
    return f'<td class="number" data-value="{value!r}">{text}{bar}</td>'


def heat_map(caption: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A confusion matrix as HTML. Rows are the truth; each cell shows the fraction of its row."""
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = max(sum(row), 1)
        cells = "".join(_heat_cell(count / total) for count in row)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table class="heat">'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _heat_cell(share: float) -> str:
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    return f'<td class="cell" style="--share:{share:.3f}">{text}</td>'


def legend(colors: Mapping[str, tuple[int, int, int]]) -> str:
    """A list of names with their RGB colors, as HTML."""
    items = "".join(
        f'<li><span class="swatch" style="background:rgb{color}" aria-hidden="true"></span>{escape(name)}</li>'
        for name, color in colors.items()
    )
    return f'<ul class="legend">{items}</ul>'


def gallery(name: str, pictures: Sequence[Picture], budget: int, filtered: bool = False, small: bool = False) -> str:
    """A gallery of pictures, as HTML. Pictures are scaled down so that all fit into `budget` bytes of the page."""
    figures, left = [], budget
    for number, picture in enumerate(pictures):
        image = _jpeg(picture.data, left // (len(pictures) - number))
        if image is None:
            continue
        left -= len(image.encoded)
        figures.append(
            f'<figure><img src="data:image/jpeg;base64,{image.encoded}" width="{image.width}" height="{image.height}" '
            f'alt="{escape(picture.alt)}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
        )
    search = _search("pictures", name) if filtered else ""
    return (
        f'<div class="block">{search}<div class="gallery{" small" * small}">{"".join(figures)}</div></div>'
        if figures
        else ""
    )


class _Jpeg(NamedTuple):
    encoded: str
    width: int
    height: int


def _jpeg(data: bytes, limit: int) -> _Jpeg | None:
    """A JPEG of at most `limit` base64 characters.

    None if `data` is not an image, or if even 32 pixels a side take more.
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    while image is not None and min(image.shape[:2]) >= 32:
        encoded = base64.b64encode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes())
        if len(encoded) <= limit:
            return _Jpeg(encoded.decode(), image.shape[1], image.shape[0])
        image = cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    return None
