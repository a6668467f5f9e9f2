"""The page of `report`: everything escaped, charts of any numbers, never above its size."""

import math
import re

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import ray_job
from pipelines.report import charts, page
from pipelines.report.page import Column, Picture

HOSTILE = '"><script>alert(1)</script>'


def test_nothing_of_the_data_becomes_markup():
    rows = [(HOSTILE, 0.5, HOSTILE)]
    body = page.table(HOSTILE, [Column(HOSTILE), Column("x", percent=True, bar=True), Column("y")], rows, filtered=True)
    body += page.facts({HOSTILE: HOSTILE}) + page.note(HOSTILE) + page.heat_map(HOSTILE, [HOSTILE], [[1]])
    body += charts.line_chart(HOSTILE, {HOSTILE: [(0, 1), (1, 2)], "b": [(0, 1)]}, HOSTILE)
    body += charts.scatter(HOSTILE, [(1, 1)], HOSTILE, HOSTILE)
    body += charts.histogram(HOSTILE, {HOSTILE: 1}, HOSTILE) + page.legend({HOSTILE: (1, 2, 3)})
    body += page.gallery(HOSTILE, [Picture(noise(64), HOSTILE, HOSTILE)], 100_000, filtered=True)
    made = page.page(HOSTILE, HOSTILE, [(HOSTILE, body)]).decode()
    assert "<script>alert" not in made
    assert made.count("<script>") == 1, "its own"


def test_a_page_asks_for_nothing_from_a_network():
    made = page.page("t", "l", [("a", page.note("b"))]).decode()
    assert "default-src 'none'" in made
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", made)


def noise(side):
    image = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


@given(st.integers(0, 12), st.integers(10_000, 300_000))
def test_pictures_keep_to_their_budget(count, budget):
    made = page.gallery("g", [Picture(noise(200), "alt", "caption")] * count, budget)
    shown = re.findall(r"base64,([^\"]+)", made)
    assert sum(map(len, shown)) <= budget
    assert len(shown) == count or budget / max(count, 1) < 5_000, "all are there, smaller where they must be"


def test_what_is_no_picture_is_left_out():
    assert page.gallery("g", [Picture(b"no image", "alt", "caption")], 10_000) == ""


numbers = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.dictionaries(st.text(max_size=5), st.lists(st.tuples(numbers, numbers), max_size=6), max_size=8))
def test_charts_take_any_numbers(series):
    made = charts.line_chart("title", series, "epoch", marks=[1.0])
    assert "nan" not in made.split("<svg")[-1].split("</svg>")[0].replace("aria-label", "") or not made
    finite = any(math.isfinite(x) and math.isfinite(y) for points in series.values() for x, y in points)
    assert bool(made) == finite


def test_one_point_and_one_value_are_drawn():
    assert "<circle" in charts.line_chart("t", {"a": [(1, 5)]}, "epoch")
    assert charts.scatter("t", [(1e-3, 2), (1e-3, 2)], "rate", "F1").count("<circle") == 2


def test_axes_end_at_round_numbers_and_below_zero_only_where_values_are():
    made = charts.line_chart("t", {"rate": [(1, 0.00193), (2, 0.0000123), (3, 0.0009)]}, "epoch")
    assert re.findall(r">([^<>]+)</text>", made) == [
        "0", "0.0005", "0.001", "0.0015", "0.002", "1", "2", "3", "epoch"
    ]  # fmt: skip


def test_a_column_without_a_value_is_aligned_as_numbers_and_sorts_below_them():
    made = page.table("t", [Column("class"), Column("F1", percent=True)], [("skin", 0.5), ("hat", None)])
    assert made.count('class="number"') == 3, "the heading and both cells"
    assert 'data-value="-Infinity">–<' in made


def test_where_there_is_nothing_the_user_is_told(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert ray_job.main(["report", "--run", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "holds neither a run nor a data set" in capsys.readouterr().err and not out.exists()
