"""The report: pages that are whole and escaped, folders that are safe."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pytest
from markupsafe import escape

from analysis.__main__ import main
from analysis.report import folder, links, pages
from analysis.report.numbers import NONE, number, numbers
from analysis.report.write import write
from analysis.section import Section
from analysis.sources.results import sections
from harness.benchmarks.made_up import write_results
from harness.results.observations import OBSERVATIONS
from harness.system import parquet
from harness.system.errors import UserError
from tests.conftest import SHARED
from tests.support.filmed import EVIL, FAILED, NUM_FILMED, NUM_METHODS, NUM_PROMPTS, write_filmed


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("made")
    write_filmed(top)
    return top


@pytest.fixture(scope="module")
def section(results: Path) -> Section:
    (found,) = sections(results)
    return found


@pytest.fixture(scope="module")
def report(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report"
    assert main(["report", str(results), "--out", str(out)]) == 0
    return out


# ---- what is written ---------------------------------------------------------------------------


class Parsed(HTMLParser):
    """Ids, ways out, and elements of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.ways: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        self.ids.add(given.get("id") or "")
        self.ways += [way for name in ("href", "src") if (way := given.get(name))]


@pytest.fixture(scope="module")
def parsed(report: Path) -> dict[Path, Parsed]:
    return {path: Parsed(path) for path in sorted(report.rglob("*.html"))}


def test_every_way_leads_to_a_file_of_the_report(report: Path, parsed: dict[Path, Parsed]) -> None:
    seen = set()
    for path, found in parsed.items():
        for way in found.ways:
            if way.startswith("data:"):
                continue
            assert ":" not in way, way
            name, _, anchor = unquote(way).partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.is_relative_to(report.resolve())
            assert target.is_file(), f"{path}: {way}"
            assert not anchor or anchor in parsed[target].ids, f"{path}: {way}"
            seen.add(target)
    assert {path.resolve() for path in parsed} <= seen, "a page that nothing leads to"


def test_there_is_a_page_a_method_and_a_page_a_prompt_with_videos(report: Path) -> None:
    assert len(list((report / "methods").iterdir())) == NUM_METHODS
    assert len(list((report / "prompts").iterdir())) == NUM_FILMED
    assert len(list(report.rglob("*.mp4"))) == NUM_METHODS * NUM_FILMED - 1
    said = (report / "index.html").read_text()
    assert f"{NUM_FILMED} prompts have a page" in said
    assert f"{NUM_PROMPTS - NUM_FILMED} others have none" in said


def test_texts_from_outside_are_never_markup(report: Path, parsed: dict[Path, Parsed]) -> None:
    for path, found in parsed.items():
        assert not [given for tag, given in found.tags if tag == "img" or "onerror" in given], path
    for name in (f"prompts/moviegen-{FAILED:03d}.html", "provenance.html", "index.html"):
        assert str(escape(EVIL)) in (report / name).read_text(), name


def test_data_for_scripts_comes_back_as_it_was() -> None:
    text = pages.data({"a": EVIL, "b": "\u2028"})
    assert "<" not in text
    assert json.loads(text) == {"a": EVIL, "b": "\u2028"}


def test_the_policy_allows_no_network_and_no_other_inline_script(
    parsed: dict[Path, Parsed],
) -> None:
    for path, found in parsed.items():
        metas = [given for tag, given in found.tags if tag == "meta" and "http-equiv" in given]
        (policy,) = (given["content"] for given in metas)
        assert policy is not None
        assert policy.startswith("default-src 'none'; script-src 'self' file:")
        assert "http" not in policy
        assert "unsafe-inline" not in policy.partition("style-src")[0]
        inline = [
            given for tag, given in found.tags
            if tag == "script" and "src" not in given and given.get("type") != "application/json"
        ]  # fmt: skip
        assert len(inline) == (path.name == "index.html") == policy.count("sha256-")


def test_plotly_is_there_once(report: Path) -> None:
    assert [
        path.name
        for path in report.rglob("*.html")
        for _ in re.findall(r"plotly\.js v\d", path.read_text())
    ] == ["index.html"]


def test_the_table_has_every_number_of_the_section(report: Path, section: Section) -> None:
    said = (report / "index.html").read_text()
    cells = numbers(section).cells
    for name, of_method in cells.items():
        for quantity, cell in of_method.items():
            value = section.values.loc[name, quantity]
            assert (cell.text == NONE) == bool(pd.isna(value)), (name, quantity)
            assert cell.text in said
    assert section.reference is not None
    assert all(not cell.difference for cell in cells[section.reference].values())
    assert any(cell.difference and cell.bounds for cell in cells[list(cells)[1]].values())


def test_bf16_again_has_its_difference_and_no_mark(section: Section) -> None:
    first, second, *_ = list(section.methods)
    videos = section.videos.sort_index()
    videos["runtime_s"] = 10.0 + 0.1 * videos.index.get_level_values("prompt_index").to_numpy()
    prompts = videos.loc[second].index.get_level_values("prompt_index").to_numpy()
    videos.loc[second, "runtime_s"] = 12.0 + 0.11 * prompts
    told = replace(section, reference=first, reruns=[second], videos=videos)
    cell = numbers(told).cells[second]["runtime_s"]
    assert cell.difference.startswith("+2.0")
    assert (cell.mark, "not tested" in cell.said) == ("", True)


def test_a_failed_video_stands_with_its_cause(report: Path) -> None:
    said = (report / f"prompts/moviegen-{FAILED:03d}.html").read_text()
    assert f"Failed: oom. {escape(EVIL)}" in said
    assert "1 failed" in (report / "index.html").read_text()


def test_cards_link_their_best_and_worst_prompts(report: Path, parsed: dict[Path, Parsed]) -> None:
    for path in (report / "methods").iterdir():
        ways = set(parsed[path].ways)
        if "bf16.html" not in path.name:
            assert ways & {f"../prompts/moviegen-{i:03d}.html" for i in range(NUM_FILMED)}
        assert "python -m harness method=" in path.read_text()


def test_what_is_missing_is_said_with_its_reason(
    results: Path, section: Section, tmp_path: Path
) -> None:
    bare = replace(
        section,
        values=section.values.drop(columns=["lpips"]),
        videos=section.videos.drop(columns=["lpips"]),
        methods={
            name: replace(method, reasons={"lpips": "no backbone"})
            for name, method in section.methods.items()
        },
    )
    write([bare], tmp_path / "r", "typed", None)
    for name in ("index.html", "provenance.html", "methods/bf16.html"):
        assert "no backbone" in (tmp_path / "r" / name).read_text(), name


def test_names_of_pages_never_meet() -> None:
    names = ["a/b", "a-b", "A b", "", "..", "con", "index", "a-b-2", "é", "x" * 300, "x" * 301]
    found = links.slugs(names)
    assert len(set(found.values())) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]{1,90}", slug) for slug in found.values())
    assert found["con"] != "con"
    assert links.slugs_of(["moviegen", "moviegen"]) == ["moviegen", "moviegen-2"]


def test_small_numbers_keep_two_digits_that_count() -> None:
    assert [number(x, 3) for x in (1.23456, 0.0, 0.00123, -0.00123)] == [
        "1.235", "0", "0.0012", "\u22120.0012",
    ]  # fmt: skip
    assert number(float("inf"), 2) == "∞"
    assert number(0.25, 2, sign="+") == "+0.25"


# ---- bad input ---------------------------------------------------------------------------------


def part_of(section: Section, names: list[str], reference: str | None) -> Section:
    methods = {name: section.methods[name] for name in names}
    return replace(
        section,
        methods=methods,
        values=section.values.loc[names],
        videos=section.videos[section.videos.index.get_level_values("method").isin(names)],
        reference=reference,
        traces={},
        components=pd.DataFrame(),
        curves={},
    )


def test_one_method_without_bf16_is_shown(section: Section, tmp_path: Path) -> None:
    name = list(section.methods)[1]
    write([part_of(section, [name], None)], tmp_path / "r", "typed", None)
    said = (tmp_path / "r/index.html").read_text()
    assert "none among the runs: no differences to it" in said
    assert "▲ better and ▼ worse" in said


def test_runs_without_videos_have_cards_and_no_pages_of_prompts(tmp_path: Path) -> None:
    write_results(tmp_path / "results", 6, 2)
    (found,) = sections(tmp_path / "results")
    made = write([found], tmp_path / "r", "typed", slice(0, 8))
    assert (made.num_prompts, made.videos.num, made.num_methods) == (0, 0, 2)
    assert "there is no MP4 of any video" in (tmp_path / "r/index.html").read_text()


def test_a_run_of_failures_alone_is_shown(tmp_path: Path) -> None:
    write_results(tmp_path / "results", 6, 2)
    for path in (tmp_path / "results").glob(f"**/{OBSERVATIONS}"):
        if "bf16" in path.parent.name:
            continue
        table = parquet.read(path, None, "")
        rows = table.to_pandas().astype(object).where(lambda x: x.notna(), None)
        rows["failure"], rows["failure_reason"] = "oom", "no room"
        parquet.write(path, pa.Table.from_pandas(rows, table.schema, preserve_index=False))
    (found,) = sections(tmp_path / "results")
    write([found], tmp_path / "r", "typed", None)
    (card,) = (p for p in (tmp_path / "r/methods").iterdir() if p.name != "bf16.html")
    assert "0 made" in card.read_text()
    assert "no room" in card.read_text()


def test_damaged_files_of_a_run_are_said_and_the_rest_is_shown(
    section: Section, tmp_path: Path
) -> None:
    name = list(section.methods)[1]
    broken = tmp_path / "run"
    broken.mkdir()
    (broken / "request.json").write_text("{")
    (broken / OBSERVATIONS).write_text("no parquet")
    methods = {**section.methods, name: replace(section.methods[name], folder=broken)}
    write([replace(section, methods=methods)], tmp_path / "r", "typed", None)
    said = (tmp_path / "r/provenance.html").read_text()
    assert "request.json is damaged" in said
    assert "observations.parquet is damaged" in said


def test_nothing_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "r")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("words", [["--prompts", "x"], ["--prompts", "1:2:3"], ["--prompts", "-1"]])
def test_a_range_that_is_none_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["report", *words])
    assert left.value.code == 2
    assert "0:8" in capsys.readouterr().err or words[1] == "-1"


def test_only_the_prompts_asked_for_get_a_page(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert main(["report", str(results), "--out", str(out), "--prompts", "1:"]) == 0
    assert [path.name for path in (out / "prompts").iterdir()] == ["moviegen-001.html"]
    assert not list(out.glob("videos/**/0000-0.mp4"))
    assert main(["report", str(results), "--out", str(out), "--prompts", "7:"]) == 0
    assert f"leaves out the {NUM_FILMED} with an MP4" in (out / "index.html").read_text()


def test_the_study_itself_can_be_reported(tmp_path: Path) -> None:
    file = SHARED / "published" / "observations.parquet"
    if not file.is_file():
        pytest.skip(f"the study's data is not there: {file}")
    pytest.importorskip("analysis.sources.published.observations")
    out = tmp_path / "r"
    assert main(["report", "published", "--observations", str(file), "--out", str(out)]) == 0
    assert len(list((out / "methods").iterdir())) == 33
    assert "the published study" in (out / "index.html").read_text()


# ---- the folder --------------------------------------------------------------------------------


def test_an_interrupted_report_leaves_the_earlier_one(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "r"
    write([section], out, "first", None)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(pages, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write([section], out, "second", None)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pages, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        write([section], tmp_path / "r", "typed", None)
    assert list(tmp_path.iterdir()) == []


def test_a_second_report_takes_the_place_of_the_first(section: Section, tmp_path: Path) -> None:
    out = tmp_path / "r"
    write([section], out, "the first", None)
    (name, *_) = section.methods
    write([part_of(section, [name], name)], out, "the second", None)
    assert "the second" in (out / "provenance.html").read_text()
    assert len(list((out / "methods").iterdir())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["r"]


@pytest.mark.parametrize("kind", ["folder", "file", "added", "other"])
def test_what_is_not_a_report_is_never_replaced(
    kind: str, section: Section, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    if kind == "file":
        out.write_text("mine")
    elif kind == "added":
        write([section], out, "typed", None)
        (out / "mine.txt").write_text("mine")
    else:
        out.mkdir()
        (out / "report.json").write_text("{}" if kind == "other" else "mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="--out"):
        write([section], out, "typed", None)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_killed_process_left_is_put_right(section: Section, tmp_path: Path) -> None:
    out = tmp_path / "r"
    write([section], out, "the first", None)
    gone = 2**22 + 1  # above any process id of Linux
    out.rename(tmp_path / f".r.{gone}.earlier")  # killed between the two renames
    (tmp_path / f".r.{gone}.unfinished").mkdir()
    (tmp_path / f".r.{os.getppid()}.unfinished").mkdir()  # somebody else's, who is alive
    with folder.replaced(out) as new:
        assert (out / "index.html").exists()
        (new / "index.html").write_text("the second")
    assert (out / "index.html").read_text() == "the second"
    assert {path.name for path in tmp_path.iterdir()} == {"r", f".r.{os.getppid()}.unfinished"}
