"""Texts of others reach no terminal, picture or spreadsheet as something that it obeys."""

from __future__ import annotations

import csv
import io
import unicodedata
import xml.etree.ElementTree as ET
from contextlib import redirect_stdout

import pytest
from rich.console import Console

from analysis.figures.figure import Axis, Bar, Bars
from analysis.figures.paper import svg
from analysis.report.pages import environment
from harness.system.files import slug
from harness.system.plain import PlainStream, plain, plain_cell, plain_streams
from harness.system.text_table import Grid

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31mred",
    "nul\x00nul",
    "back\x08space",
    "over\rwritten",
    "bell\x07",
    "\x7f",
    "left\u202eto right",
    "\u2066isolate\u2069",
    "line\u2028separator",
    "half \ud83d of a pair",
    "\ufeffmark",
]
FORMULAS = [
    "=1+1",
    "=cmd|' /C calc'!A0",
    "+1+cmd|' /C calc'!A0",
    "-1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1+1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "|calc",
    "%0A=1",
    '=HYPERLINK("http://x")',
]


def obeyed(text: str) -> list[str]:
    """Control, format and surrogate characters in a text."""
    kinds = ("Cc", "Cf", "Cs", "Zl")
    return [x for x in text if unicodedata.category(x) in kinds and x not in "\t\n"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_that_a_terminal_obeys_is_printed(text: str) -> None:
    said = io.StringIO()
    with redirect_stdout(said), plain_streams(), plain_streams():
        print("name:", text)
        Grid(text, [text, "n"], [[text, "1"]], notes=[text], made_by=[text]).show()
    assert not obeyed(said.getvalue())
    assert plain(plain(text)) == plain(text)
    letters = [x for x in text if x.isalnum() and x.isascii()]
    assert all(x in plain(text) for x in letters), "nothing is lost"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_pages_and_files_of_tables_have_none_either(text: str) -> None:
    grid = Grid(text, [text, "n"], [[text, "1"]], notes=[text], made_by=[text])
    for written in (grid.markdown(), grid.latex(), grid.csv(), grid.text()):
        assert not obeyed(written)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_page_of_the_report_has_none_either(text: str) -> None:
    page = environment().from_string("<p title='{{ x }}'>{{ x }}</p>{{ x|breakable }}")
    assert not obeyed(page.render(x=text))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_picture_is_xml_whatever_its_names_are(text: str) -> None:
    named = text.replace("\ud83d", "")  # no font and no file has it
    drawn = svg(Bars("x", named, Axis(named), [Bar(named, named, [0.5])], note=named))
    ET.fromstring(drawn)
    assert not obeyed(drawn)


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_no_cell_is_a_formula(text: str) -> None:
    written = Grid("t", ["method", text], [[text, "-0.5 [-0.7, -0.3]"], ["x", text]]).csv()
    (head, first, second) = csv.reader(io.StringIO(written))
    for cell in (head[1], first[0]):
        assert cell.removeprefix("'") == plain(text)
        assert cell[0] not in "=+-@\t\r\n |%"
    assert first[1] == "-0.5 [-0.7, -0.3]"
    assert second[1][0] not in "=@\t\r\n |%"


@pytest.mark.parametrize(
    "text", ["-", "-1", "+2.5", "-3.1e-5", "-inf", "a=b", "12 %", "kivi-2", ""]
)
def test_numbers_and_plain_words_stay_as_they_are(text: str) -> None:
    assert plain_cell(text) == text


def test_colours_of_our_own_pass() -> None:
    behind = io.StringIO()
    stream = PlainStream(behind)
    Console(file=stream, force_terminal=True, color_system="standard").print("[red]x[/red]")  # type: ignore[arg-type]
    stream.write("\x1b[31m")
    assert "\x1b[31mx" in behind.getvalue() and behind.getvalue().endswith("\\x1b[31m")


@pytest.mark.parametrize(
    "text",
    ["../../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "nul\x00", ".hidden", "-rf", "a\nb",
     "~/x", "x" * 500, "\x1b[2J", "con:", "*?", "CON/../..", "李明/../李"],
)  # fmt: skip
def test_a_slug_is_one_name_in_its_folder(text: str) -> None:
    name = slug(text)
    assert name and "/" not in name and "\\" not in name and name.isprintable()
    assert not name.startswith((".", "-")) and ".." not in name.split("/")
    assert len(name.encode()) < 255 and slug(name) == name


@pytest.mark.parametrize("text", ["moviegen", "storyeval-2", "a_b.c", "李明"])
def test_a_slug_leaves_good_names_alone(text: str) -> None:
    assert slug(text) == text
