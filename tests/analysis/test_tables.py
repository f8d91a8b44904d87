"""Rows to the table, against hand-worked cells."""

from __future__ import annotations

import pandas as pd

from harness.results.summary_table import cells, markdown, notes, sections, summarize
from tests.support.observations import observation

GIB = 2**30


def rows(*observations: object, **scores: list[object]) -> pd.DataFrame:
    frame = pd.DataFrame([vars(o) for o in observations])
    return frame.assign(**scores)


def made(index: int, peak_bytes: int, seconds: float) -> object:
    return observation(
        index,
        peak_bytes=peak_bytes,
        generate_s=seconds,
        kv_stored_bytes=3 * 2**20,
        kv_ratio_same_frames=3.2,
        kv_ratio_full_length=5.0,
    )


def test_means_over_videos_and_the_largest_peak() -> None:
    table = rows(made(0, GIB, 1.0), made(1, 2 * GIB, 2.0), psnr_db=[30.0, 34.0], ssim=[0.9, None])
    (line,) = summarize([table])
    expected = [
        "x",
        "2",
        "3.20",
        "5.00",
        "3.00",
        "2.000",
        "-",
        "1.50",
        "32.00",
        "0.9000",
        "-",
        "-",
        "-",
    ]
    assert cells(line) == expected


def test_failed_videos_are_counted_apart_and_said() -> None:
    failure = observation(1, failure="oom", peak_bytes=9 * GIB)
    (line,) = summarize([rows(made(0, GIB, 1.0), failure)])
    assert (line.n, line.failed, line.peak_gib) == (1, 1, 1.0)
    assert any("1 videos failed" in note for note in notes([line]))


def test_a_run_without_any_video_has_no_numbers() -> None:
    (line,) = summarize([rows(observation(0, failure="oom"))])
    assert cells(line)[2:] == ["-"] * 11


def test_a_missing_value_says_why_once_for_all_methods() -> None:
    tables = [rows(made(0, GIB, 1.0), lpips_reason=["no weights"]) for _ in range(2)]
    assert [n for n in notes(summarize(tables)) if "no weights" in n] == ["x, x: no weights"]


def test_markdown_has_a_row_a_run() -> None:
    (section,) = sections([rows(made(0, GIB, 1.0))])
    lines = markdown(section).splitlines()
    assert lines[2].startswith("| method | n |")
    assert lines[4].startswith("| x | 1 | 3.20 |")


def test_contracts_are_never_mixed_in_a_table() -> None:
    runs = [
        rows(observation(0, contract=contract), observation(1, contract=contract))
        for contract in ("full", "window21", "full")
    ]
    found = sections(runs)
    assert [len(section.lines) for section in found] == [2, 1]
    assert "full history" in found[0].title
    assert "window21" in found[1].title


def test_the_two_memory_columns_are_apart() -> None:
    packed, published = (
        rows(observation(0, peak_bytes=GIB, integration=name)) for name in ("packed", "published")
    )
    best, old = summarize([packed, published])
    assert (best.peak_gib, best.published_gib) == (1.0, None)
    assert (old.peak_gib, old.published_gib) == (None, 1.0)


def test_mixed_machines_and_versions_of_the_code_are_said() -> None:
    def lines(*makers: tuple[str, str]) -> list[str]:
        tables = [rows(observation(0, device=d, code_version=v)) for d, v in makers]
        return [note for note in notes(summarize(tables)) if note.startswith("mixed: ")]

    assert lines(("H200", "1a2b"), ("H200", "1a2b")) == []
    assert lines(("H200", "1a2b"), ("EPYC", "1a2b")) == ["mixed: rows of 2 machines (H200; EPYC)"]
    both = lines(("H200", "1a2b"), ("EPYC", "3c4d"))
    assert both[1:] == ["mixed: rows of 2 versions of the code (1a2b; 3c4d)"]
    within = rows(*(observation(i, device=d) for i, d in enumerate(("H200", "EPYC"))))
    assert any("2 machines" in note for note in notes(summarize([within])))
