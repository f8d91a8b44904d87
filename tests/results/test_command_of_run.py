"""The settings of a run as its rows keep them, and the command that they give again."""

from __future__ import annotations

import shlex
from pathlib import Path

from harness.config.compose import configured
from harness.results.command_of_run import Origin
from tests.support.commands import within
from tests.support.runs import run

KEPT = "recent=2 ~retention +retention={_target_:methods.retention.window.Window,budget:9 frames}"

TEXT = "+model.text={_target_:harness.models.HashText,length:8,width:32}"
OF_MODEL = "model.window=21 ~model.text.folder"


def test_keys_that_were_removed_and_added_come_back(tmp_path: Path) -> None:
    this = run(tmp_path, "method=bf16", method_name="bf16", settings=f"{KEPT} {OF_MODEL}")
    assert Origin.of_run(tmp_path, None, this, ()).choices[3:] == [
        "method.recent=2",
        "~method.retention",
        "+method.retention={_target_:methods.retention.window.Window,budget:9 frames}",
        "model.window=21",
        "~model.text.folder",
    ]


def test_the_command_of_a_replaced_part_composes_it(tmp_path: Path) -> None:
    settings = KEPT.removeprefix("recent=2 ")
    this = run(tmp_path, "method=h2o_bf16", method_name="h2o_bf16", settings=settings)
    words = shlex.split(Origin.of_run(this.folder, None, this, ()).typed({(0, 0)}))[3:]
    made = configured(*[word for word in words if word.lstrip("~+").startswith("method")])
    assert made["method"]["retention"] == {
        "_target_": "methods.retention.window.Window",
        "budget": "9 frames",
    }


def test_a_run_shows_the_keys_that_it_removed_and_added(tmp_path: Path) -> None:
    sized = "+method.retention={_target_:methods.retention.window.Window,budget:9 frames}"
    words = ["method=h2o_bf16", "~method.retention", sized, "~model.text", TEXT]
    more = ["suite.source=bundled", "track=disabled", f"results_dir={tmp_path}", "run.dry=true"]
    done = within(*words, *more)
    assert done.returncode == 0, done.stderr
    assert "h2o_bf16 ~retention +retention={_target_:methods.retention.window.Window" in done.stdout
    assert "~model.text +model.text={_target_:harness.models.HashText" in done.stdout
