"""Drawings: the same bytes, names that can be read, looks that differ, pages without harm."""

from __future__ import annotations

import json
import re
from html import unescape
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as plotly
import pytest

from analysis.figures.families import family_of
from analysis.figures.figure import Axis, Bar, Bars, Curve, Curves, Figure, Panels, Point, Scatter
from analysis.figures.looks import DASHES, FAMILIES, PARTS, look, told_apart
from analysis.figures.page import div, looks, plotted
from analysis.figures.panels import LINE_PT, MARKERS
from analysis.figures.paper import pdf, svg
from analysis.figures.spread import around, spread
from analysis.figures.words import described, rows
from harness.config.compose import choices

RNG = np.random.default_rng(0)
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</div><script>alert('$x_1$')</script>"


def scatter(num: int = 60, num_best: int = 8, **more: object) -> Scatter:
    """A reference and many methods, the first of which are on the frontier."""
    families = list(FAMILIES)
    points = [Point("bf16", 1.0, 1.0, "BF16", is_reference=True)]
    points += [
        Point(f"m{i:02}", *map(float, RNG.uniform(0, 10, 2)), families[i % len(families)])
        for i in range(num)
    ]
    best = [f"m{i:02}" for i in range(num_best)]
    x, y = Axis("peak GiB", "lower"), Axis("SSIM", "higher")
    return Scatter("s", "A title", x, y, points, best, "of SSIM, peak", **more)  # type: ignore[arg-type]


def curves(num: int = 20, **more: object) -> Curves:
    """A reference and lines that end close together."""
    lines = [Curve("bf16", [0.0, 1.0, 2.0], [3.0, 3.5, 3.0], "BF16", True)]
    lines += [Curve(f"m{i}", [0.0, 1.0, 2.0], [1.0, 2.0, 3 + i / 99], "RTN") for i in range(num)]
    return Curves("c", "Curves", Axis("seconds"), Axis("SSIM", "higher"), lines, **more)  # type: ignore[arg-type]


def bars(num: int = 5, **more: object) -> Bars:
    """Bars with intervals and a mark."""
    made = [Bar(f"m{i}", "RTN", [1.0 + i], 0.5 + i, 1.5 + i) for i in range(num)]
    return Bars("b", "Bars", Axis("dB", "higher"), made, mark=2.5, mark_said="floor", **more)  # type: ignore[arg-type]


def stacked() -> Bars:
    made = [Bar("bf16", "BF16", [1.0, 2.0], is_reference=True), Bar("a", "RTN", [1.0, 0.5])]
    return Bars("p", "Parts", Axis("GiB", "lower"), made, ["weights", "history"])


ALL: list[Figure] = [scatter(), curves(), bars(), stacked()]


def texts(drawn: str) -> list[str]:
    root = ElementTree.fromstring(drawn)
    return [str(element.text) for element in root.iter(f"{SVG}text")]


def place(drawn: str, name: str) -> tuple[float, float]:
    """Where a name begins."""
    for element in ElementTree.fromstring(drawn).iter(f"{SVG}text"):
        if element.text == name:
            return float(str(element.get("x"))), float(str(element.get("y")))
    raise AssertionError(f"{name} is not drawn")


# ---- looks ---------------------------------------------------------------------------------------


def test_every_family_has_a_look_of_its_own_and_a_marker_on_paper() -> None:
    ours = {family_of(name).lower() for name in choices("method")}
    assert ours <= set(FAMILIES)
    assert len({each.marker for each in FAMILIES.values()}) == len(FAMILIES)
    assert len({each.light for each in FAMILIES.values()}) == len(FAMILIES)
    assert {each.marker for each in FAMILIES.values()} == set(MARKERS)
    for theirs, name in (
        ("QUAROT_KV", "QuaRot"),
        ("AGE_TIER", "Age"),
        ("SPATIAL_MIXED", "Spatial"),
    ):
        assert look(theirs) == look(name)


def test_an_unknown_family_looks_the_same_whoever_asks() -> None:
    assert look("MyOwn") == look("myown") and look("MyOwn").marker in MARKERS
    assert len({look(f"own{i}") for i in range(20)}) > 10
    assert look("MyOwn", is_reference=True) == look("BF16")


@pytest.mark.parametrize(("theme", "paper"), [("light", "#ffffff"), ("dark", "#15181c")])
def test_colours_stand_out(theme: str, paper: str) -> None:
    colours = [getattr(each, theme) for each in FAMILIES.values()]
    for colour in colours:
        low, high = sorted((luminance(colour), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_dashes_of_neighbours_differ_and_of_one_colour_too() -> None:
    one = told_apart([(f"m{i}", "red") for i in range(len(DASHES))])
    assert sorted(one.values()) == list(range(len(DASHES)))
    many = told_apart([(f"m{i}", f"{i % 3}") for i in range(40)])
    assert all(a != b for a, b in pairwise(many.values()))
    assert told_apart([("a", "red"), ("a", "red")]) == {"a": 0}
    assert len({hatch for _, _, hatch in PARTS}) == len(PARTS)


# ---- paper ---------------------------------------------------------------------------------------


def test_names_keep_their_order_and_distance_within_the_panel() -> None:
    wanted = [*RNG.uniform(0, 100, 30), 0.0, 100.0]
    places = spread(wanted, 3.0, 0.0, 100.0)
    assert np.array_equal(np.argsort(places), np.argsort(wanted))
    assert np.diff(sorted(places)).min() >= 3.0 - 1e-9
    assert min(places) >= 0 and max(places) <= 100
    assert spread([10.0, 50.0], 3.0, 0.0, 100.0) == [10.0, 50.0]
    assert spread([50.0, 50.0], 4.0, 0.0, 100.0) == [48.0, 52.0]
    assert np.diff(spread([1.0] * 11, 50.0, 0.0, 100.0)) == pytest.approx(10)  # no room: closer


@pytest.mark.parametrize("figure", ALL, ids=lambda each: each.name)
def test_the_same_figure_is_the_same_bytes(figure: Figure) -> None:
    drawn, printed = svg(figure), pdf(figure)
    assert svg(figure) == drawn and pdf(figure) == printed
    assert printed.startswith(b"%PDF") and b"/FontFile2" in printed
    assert "Matplotlib v" not in drawn and b"CreationDate" not in printed
    assert figure.title in texts(drawn)


def test_the_frontier_and_the_reference_are_named_and_nobody_else() -> None:
    figure = scatter()
    words = texts(svg(figure))
    named = {word for word in words if re.fullmatch(r"m\d\d", word)}
    assert named == set(figure.frontier) and "bf16" in words
    assert "peak GiB (lower is better)" in words
    assert any("of SSIM, peak" in word for word in words)
    everyone = texts(svg(scatter(label_all=True)))
    assert {point.name for point in figure.points} <= set(everyone)


@pytest.mark.parametrize("figure", [scatter(label_all=True), curves(60)], ids=["points", "lines"])
def test_names_beside_a_plot_never_cover_each_other(figure: Scatter | Curves) -> None:
    drawn = svg(figure)
    members = figure.points if isinstance(figure, Scatter) else figure.curves
    spots = sorted(place(drawn, each.name) for each in members)
    assert len({round(x, 3) for x, _ in spots}) == 1  # a column
    assert np.diff(sorted(y for _, y in spots)).min() >= LINE_PT - 0.5


def test_every_line_of_a_sheet_looks_different() -> None:
    drawn = svg(Panels("p", [[curves(7)], [curves(7)]], ["first", ""]))
    strokes = re.findall(r'style="(fill: none;[^"]*stroke: #0072b2[^"]*)"', drawn)
    lines = [each for each in strokes if "stroke-width: 1.3" in each]
    assert len(lines) == 14 and len(set(lines)) == 7
    assert lines[:7] == lines[7:]
    assert "first" in texts(drawn)


def test_many_bars_make_a_higher_sheet_not_thinner_bars() -> None:
    few, many = (float(re.findall(r'height="([\d.]+)pt"', svg(bars(n)))[0]) for n in (10, 60))
    assert many - few == pytest.approx(50 * 13, abs=1)
    assert "floor" in texts(svg(bars()))


def test_bars_of_the_same_methods_are_named_once_a_row() -> None:
    assert texts(svg(Panels("p", [[bars(), bars()]]))).count("m3") == 1
    assert texts(svg(Panels("p", [[bars()], [bars()]]))).count("m3") == 2
    assert texts(svg(Panels("p", [[bars(4), bars(5)]]))).count("m3") == 2


def test_a_panel_without_anything_is_an_error_with_its_name() -> None:
    for figure in (
        Scatter("empty", "t", Axis("x"), Axis("y"), []),
        Curves("empty", "t", Axis("x"), Axis("y"), [Curve("a", [], [], "RTN")]),
        Bars("empty", "t", Axis("x"), []),
        Panels("empty", []),
    ):
        with pytest.raises(ValueError, match="empty: a panel without"):
            svg(figure)


def test_names_are_drawn_as_they_are() -> None:
    points = [Point(HOSTILE, 1, 2, HOSTILE), Point("$a_b^2$ \\frac", 2, 1, "g", hollow=True)]
    figure = Scatter("s", "<t> & $", Axis("x"), Axis("y"), points, label_all=True, diagonal=True)
    assert {HOSTILE, "$a_b^2$ \\frac", "<t> & $"} <= set(texts(svg(figure)))
    assert pdf(figure)


# ---- page ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", ALL, ids=lambda each: each.name)
def test_plotly_takes_what_a_page_is_given(figure: Figure) -> None:
    element = div(figure, "an-id")
    assert "<script" not in element and element.startswith('<div id="an-id"')
    content = json.loads(unescape(re.findall(r'data-plot="([^"]*)"', element)[0]))
    assert content == json.loads(json.dumps(plotted(figure)))
    plotly.Figure(content)  # raises for anything it does not know
    assert content["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
    assert all(set(trace["meta"]) == {"light", "dark"} for trace in content["data"])
    assert described(figure) in unescape(element)


def test_names_on_a_page_stand_apart_or_are_left_to_hovering() -> None:
    apart = around([(50, 50), (50, 52), (300, 50)], [(0, 40), (1, 40), (2, 40)], 12, (400, 100))
    assert apart[0] == apart[2] == "top center" and apart[1] != "top center"
    full = around([(200, 50)] * 40, [(i, 40) for i in range(40)], 12, (400, 100))
    assert 0 in full and 2 <= len(full) < 10
    assert around([(5, 50)], [(0, 40)], 12, (400, 100)) == {0: "middle right"}
    # Above it is another mark that is named itself, below it the plot's edge.
    assert around([(50, 10), (50, 24)], [(0, 40), (1, 40)], 12, (400, 100))[0] == "middle right"
    crowd = [Point(f"m{i}", 1.0, 1.0 + (i == 0), "RTN") for i in range(30)]
    figure = Scatter("s", "t", Axis("x"), Axis("y"), crowd, [p.name for p in crowd])
    (trace,) = plotted(figure)["data"]
    assert trace["text"].count("") > 5 and len(trace["customdata"]) == 30


def test_hovering_names_everything() -> None:
    data = plotted(scatter())["data"]
    assert {name for trace in data for name in trace["customdata"]} == {
        point.name for point in scatter().points
    }
    lines = {trace["name"]: trace["line"] for trace in plotted(curves(7, steps=True))["data"]}
    assert len({line["dash"] for name, line in lines.items() if name != "bf16"}) == 7
    assert lines["bf16"]["width"] > lines["m0"]["width"] and lines["m0"]["shape"] == "hv"
    assert [trace["name"] for trace in plotted(stacked())["data"]] == ["weights", "history"]


def test_a_hostile_name_does_no_harm_to_a_page() -> None:
    points = [Point(HOSTILE, 1.0, 2.0, HOSTILE)]
    figure = Scatter("s", HOSTILE, Axis(HOSTILE), Axis("y"), points, [HOSTILE], HOSTILE)
    element = div(figure, '"><script>')
    assert "<script" not in element and element.count("<div") == element.count("</div>") == 1
    content = json.loads(unescape(re.findall(r'data-plot="([^"]*)"', element)[0]))
    assert "<script" not in json.dumps(content)  # plotly reads tags in its texts


def test_a_number_that_json_has_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="JSON"):
        div(Bars("b", "t", Axis("x"), [Bar("a", "RTN", [float("nan")])]), "i")


def test_looks_for_what_a_page_draws_by_itself() -> None:
    found = looks(["RTN", "unknown one"])
    assert set(found) == {"light", "dark"}
    assert set(found["dark"]) == {"RTN", "unknown one", "reference"}
    assert found["light"]["RTN"] == {"colour": look("RTN").light, "marker": "circle"}


# ---- words ---------------------------------------------------------------------------------------


def test_the_words_tell_extremes_frontier_and_reference() -> None:
    points = [
        Point("bf16", 1.0, 1.0, "BF16", is_reference=True),
        Point("a", 4.0, 0.5, "RTN", 0.25), Point("b", 2.0, 0.75, "RTN", 1.0),
    ]  # fmt: skip
    figure = Scatter(
        "s", "T", Axis("ratio", "higher"), Axis("SSIM", "higher"), points, ["a", "b"], "of both",
        size_said="ratio", note="a note",
    )  # fmt: skip
    said = described(figure)
    assert "ratio: from 1 (bf16) to 4 (a)." in said and "SSIM: from 0.5 (a) to 1 (bf16)." in said
    assert (
        "On the frontier (of both): a, b." in said and "bf16, the reference, is at 1 and 1" in said
    )
    assert said.endswith("a note.")
    grid = rows(figure)
    assert grid.header == ["method", "ratio", "SSIM", "ratio, largest is 1", "frontier"]
    assert grid.lines[1] == ["a", "4", "0.5", "0.25", "yes"]


def test_the_words_of_lines_and_bars() -> None:
    assert "lowest is bf16 (3), the highest m19 (3.192)" in described(curves())
    assert rows(curves()).header == ["method", "0", "1", "2"]
    many = [Curve("a", list(map(float, range(50))), [1.0] * 49 + [9.0], "RTN")]
    long = Curves("c", "t", Axis("s"), Axis("y"), many)
    assert rows(long).lines == [["a", "1", "9", "1", "9", "50"]]
    assert "floor: 2.5" in described(bars()) and "From 1 (m0) to 5 (m4)." in described(bars())
    assert rows(bars()).lines[0] == ["m0", "1", "0.5", "1.5"]
    assert rows(stacked()).lines[0] == ["bf16", "3", "1", "2"]
    both = described(Panels("p", [[bars()], [stacked()]], title="Both", note="n"))
    assert both.startswith("Both.") and "Parts: weights, history." in both and both.endswith("n.")
