"""Tables of texts: what they look like in a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.system.text_table import Grid, escaped
from tests.support.latex import check

GRID = Grid(
    "A title with 50 % & more",
    ["method", "PSNR dB", "comment"],
    [["rtn_int4", "-1.50 [-2.00, +1.00]*", "a | b"], ["[odd]", "inf", ""]],
    notes=["a note: x < y, 2^30, ~/.cache"],
    made_by=["1a2b  python -m harness method=rtn_int4"],
    words={0, 2},
    name="A1",
)


def test_text_shows_every_cell_and_all_that_stands_beneath() -> None:
    text = GRID.text()
    for line in GRID.lines:
        for cell in line:
            assert cell in text
    assert text.startswith(GRID.title)
    assert "- a note: x < y" in text and "- 1a2b  python -m harness" in text
    assert "\x1b" not in text


def test_a_cell_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    wide = Grid("t", ["a", *map(str, range(40))], [["x" * 300, *(["12345678"] * 40)]])
    wide.show()
    assert "x" * 300 in capsys.readouterr().out
    assert wide.text().count("12345678") == 40


def test_markdown() -> None:
    assert GRID.markdown() == (
        "A title with 50 % & more\n\n"
        "| method | PSNR dB | comment |\n"
        "| --- | ---: | --- |\n"
        "| rtn_int4 | -1.50 [-2.00, +1.00]* | a \\| b |\n"
        "| [odd] | inf |  |\n"
        "\n"
        "- a note: x < y, 2^30, ~/.cache\n"
        "- `1a2b  python -m harness method=rtn_int4`\n"
    )


def test_markdown_of_a_plain_grid_ends_with_its_rows() -> None:
    assert Grid("t", ["a", "b"], [["x", "1"]]).markdown() == (
        "t\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n"
    )


def test_csv_is_read_back_as_it_was() -> None:
    assert list(csv.reader(io.StringIO(GRID.csv()))) == [GRID.header, *GRID.lines]


def test_latex_is_well_formed() -> None:
    text = GRID.latex()
    rows = check(text)
    assert rows[0] == ["method", "PSNR dB", "comment"]
    assert rows[1][0] == r"rtn\_int4"
    assert rows[1][1] == "$-$1.50 [$-$2.00, +1.00]*"
    assert text.startswith("% 1a2b  python".replace("  ", " "))
    assert r"\begin{tabular}{lrl}" in text and r"\label{tab:A1}" in text
    assert r"2\textasciicircum{}30, \textasciitilde{}/.cache" in text
    # After a line break a bracket would be taken for its argument.
    assert "{}[odd]" in text


@given(
    st.lists(st.text(st.characters(exclude_categories=["C"]), max_size=12), min_size=3, max_size=3)
)
def test_no_text_breaks_latex(cells: list[str]) -> None:
    grid = Grid(cells[0], cells, [cells, cells], notes=cells)
    assert len(check(grid.latex())) == 3


def test_a_minus_is_set_before_numbers_and_nowhere_else() -> None:
    assert escaped("-0.5") == "$-$0.5"
    assert escaped("rtn-int4 4-bit") == "rtn-int4 4-bit"
    assert not re.search(r"(?<!\\)[#%&_]", escaped("a#b%c&d_e"))
