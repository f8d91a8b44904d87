"""Warnings, remarks and what goes on: what is shown, and where."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.system import logs
from harness.system.files import write_json
from tests.support.commands import command, one_sentence, within


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unset the log level in the environment before and after each test."""
    monkeypatch.setenv(logs.VARIABLE, "")
    before, logs.log.handlers = logs.log.handlers, []
    yield
    logs.log.handlers = before
    logs.log.setLevel(logging.NOTSET)


def all_said() -> None:
    logs.log.error("an error")
    logs.log.warning("a warning of 100 %")
    logs.remark("note: a remark")
    logs.log.info("an info of %d", 2)
    logs.log.debug("a detail")


LINES = ["error: an error", "warning: a warning of 100 %", "note: a remark", "info: an info of 2",
         "debug: a detail"]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "number"), [("error", 1), ("warning", 3), (None, 3), ("info", 4), ("debug", 5)]
)
def test_levels_show_what_they_say(
    begun: None, capsys: pytest.CaptureFixture[str], level: str | None, number: int
) -> None:
    logs.begin(level)
    logs.begin(level)  # a second handler would print twice
    all_said()
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in LINES[:number]))


def test_children_show_what_their_parent_shows(
    begun: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert logs.without_flags(["a", "-q", "b=1", "-v"]) == ["a", "b=1"]
    logs.begin()  # as in a child, which has the environment alone
    all_said()
    assert capsys.readouterr().err.splitlines() == LINES[:4]


def test_files_and_stages_are_told(
    begun: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.begin("debug")
    with logs.stage("packing"):
        write_json(tmp_path / "a.json", {})
    begins, wrote, took = capsys.readouterr().err.splitlines()
    assert (begins, wrote) == ("info: packing begins", f"debug: wrote {tmp_path / 'a.json'}")
    assert took.startswith("info: packing took ") and took.endswith(" s")


def test_verbs_take_flags_and_runs_a_setting(tmp_path: Path) -> None:
    assert within("ls", "suites", "-v").returncode == 0
    assert one_sentence(within("ls", "nothing", "-q")).startswith("error: ls nothing: choose")
    words = ["method=bf16", f"results_dir={tmp_path}", "run.log=loud"]
    assert "error: run.log=loud: choose warning, info, debug" in within(*words).stderr


def test_a_run_tells_its_stages_and_its_children_their_files(tmp_path: Path) -> None:
    words = ["method=bf16", "suite.frames=3", "suite.num_prompts=1", "suite.source=bundled"]
    words += ["track=disabled", "metrics=[psnr]", f"results_dir={tmp_path}", "run.log=debug"]
    said = command(*words).stderr.splitlines()
    told = [line.split(": ", 2)[2] for line in said if line.startswith("info: ")]
    assert [each.partition(" took")[0] for each in told] == [
        *("generate 1 video begins", "generate 1 video"),
        *("score 1 video begins", "score 1 video"),
    ]
    for name in ("0000-0.npy", "0000-0.mkv", "scores.parquet", "results.parquet"):
        assert any(line.startswith("debug: wrote ") and line.endswith(name) for line in said), name
