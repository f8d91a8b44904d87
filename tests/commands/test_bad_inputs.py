"""Every line of `bad_inputs.yaml` ends with one sentence and its exit code, and writes nothing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

import analysis.__main__
import harness.__main__
from harness.models.preset import VideoModel
from harness.results.run import Run
from harness.runs import generate, sweep
from harness.runs.worker import fixable
from harness.scoring.score import built
from harness.system.errors import AlreadySaid
from tests.conftest import ROOT

TABLE = yaml.safe_load((ROOT / "tests" / "bad_inputs.yaml").read_text("utf-8"))
CASES = [
    pytest.param(program, *entry, id=f"{program} {entry[0]}"[:80])
    for program, kinds in TABLE.items()
    for entries in kinds.values()
    for entry in entries
]
BASES = {"results_dir": "{new}", "suite.source": "bundled", "track": "disabled"}
# Files of choices of one's own that nothing can be made of.
OWN: dict[str, str | bytes] = {
    "scalar": "abc",
    "list": "- a\n- b\n",
    "empty": "",
    "binary": bytes(range(256)),
    "latin1": "family: é".encode("latin-1"),
    "tabs": "defaults:\n\t- bf16\n",
    "double": "defaults: [bf16, _self_]\nfamily: a\nfamily: b\n",
    "unclosed": "key: [",
    "itself": "defaults: [itself, _self_]\n",
    "circle": "defaults: [bf16, _self_]\nfamily: ${method.source}\nsource: ${method.family}\n",
    "nowhere": "defaults: [bf16, _self_]\nfamily: ${nope}\n",
    "words": "defaults: [bf16, _self_]\nkey: words\n",
    "unknown": "defaults: [bf16, _self_]\nfoo: 1\n",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("bad")
    (root / "file").write_text("no folder\n")
    for name, content in OWN.items():
        path = root / "own" / "method" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"own": str(root / "own"), "file": str(root / "file")}


def build_only(stage: str, run: Run, lock: int, videos: object) -> None:
    """The child's first steps, without a child: whatever it refuses, it says so."""

    class Built(Exception):
        pass

    try:
        with patch.object(VideoModel, "build", side_effect=Built):
            generate.Generator(run)
    except Built:
        built(json.dumps(run.metrics, sort_keys=True))
    except Exception as error:
        sentence = fixable(error, run.folder)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        raise AlreadySaid(sentence) from error
    raise AssertionError("the settings were taken")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setattr(sweep.Folder, "path", None)
    with (
        patch.dict(os.environ),
        patch.object(sys, "path", [*sys.path]),
        patch("harness.runs.job.run_stage", build_only),
    ):
        yield
    GlobalHydra.instance().clear()


def typed(program: str, words: list[str]) -> tuple[int, str]:
    """Exit code of a program in this process, and what it said on standard error."""
    erred = StringIO()
    with redirect_stdout(StringIO()), redirect_stderr(erred), patch("sys.argv", ["x", *words]):
        try:
            if program == "harness":
                code = harness.__main__.main()
            elif program == "analysis":
                code = analysis.__main__.main(words)
            else:
                at = (
                    f"{program}.__main__" if program != "harness.commands.methods_page" else program
                )
                code = import_module(at).main(words)
        except SystemExit as error:  # of argparse
            code = int(error.code or 0)
    return code, erred.getvalue()


@pytest.mark.parametrize(
    ("program", "line", "fragment", "code"),
    [
        pytest.param(*(case.values if len(case.values) == 4 else (*case.values, 2)), id=case.id)
        for case in CASES
    ],
)
def test_bad_input(
    program: str, line: str, fragment: str, code: int, places: dict[str, str], tmp_path: Path
) -> None:
    words = line.split(" ") if line else []
    words = [word.replace("{new}", str(tmp_path)) for word in words]
    for name, place in places.items():
        words = [word.replace(f"{{{name}}}", place) for word in words]
    words = [word.strip("'") if "'" in word and "=" not in word else word for word in words]
    is_setting = any("=" in word or "~" in word for word in words)
    if program == "harness" and is_setting and not set(words) & set(harness.__main__.VERBS):
        given = {word.lstrip("~+").partition("=")[0] for word in words}
        base = {name: value for name, value in BASES.items() if name not in given}
        if given & {"track.mode", "track.project"} or "track.foo" in given:
            base.pop("track")
        words += [f"{name}={value}".replace("{new}", str(tmp_path)) for name, value in base.items()]
    found, said = typed(program, words)
    lines = [each for each in said.splitlines() if not each.startswith("warning: ")]
    assert found == code, said
    assert "Traceback" not in said
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ") and fragment in lines[0], said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "something half written"


def test_the_table_is_large_and_covers_every_verb() -> None:
    assert len(CASES) >= 150
    harness_words = " ".join(case.values[1] for case in CASES if case.values[0] == "harness")
    analysis_words = [case.values[1] for case in CASES if case.values[0] == "analysis"]
    assert all(verb in harness_words for verb in harness.__main__.VERBS)
    assert all(
        any(line.startswith(verb) for line in analysis_words) for verb in analysis.__main__.VERBS
    )


SHADOWS = {
    "method": "rtn_int4",
    "model": "small",
    "suite": "moviegen",
    "attention": "portable",
    "integration": "packed",
    "track": "disabled",
    "experiment": "smoke",
    "metrics": "psnr",
}


@pytest.mark.parametrize("group", SHADOWS)
@pytest.mark.parametrize(
    "words",
    [
        ["run.dry=true"],
        ["-m", "suite.seed=0,1"],
        ["plan"],
        ["check", "method=bf16"],
        ["ls"],
        ["ls", "methods"],
        ["score", "."],
        ["fetch", "weights"],
    ],
    ids=" ".join,
)
def test_a_file_of_ones_own_with_a_shipped_name_is_refused_everywhere(
    group: str, words: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "mine" / group / f"{SHADOWS[group]}.yaml"
    own.parent.mkdir(parents=True)
    own.write_text((ROOT / "conf" / group / own.name).read_text())
    code, said = typed("harness", [*words, "--config-dir", str(tmp_path / "mine")])
    assert code == 2
    assert said.startswith(f"error: {own} has the name of a file that ships: call it my_{own.name}")
    assert f"type {group}=my_{SHADOWS[group]}" in said and said.count("\n") == 1


def test_a_search_path_is_no_way_around(tmp_path: Path) -> None:
    own = tmp_path / "mine" / "method" / "rtn_int4.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [bf16, _self_]\n")
    path = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    code, said = typed("harness", [path, "method=rtn_int4", f"results_dir={tmp_path / 'new'}"])
    assert code == 2 and "has the name of a file that ships" in said
    assert not (tmp_path / "new").exists()
