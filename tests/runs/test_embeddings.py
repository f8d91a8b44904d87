"""Encoded prompts shared between runs: made once, whatever runs beside and whoever dies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.models.text.hashed_words import HashText
from harness.prompts.suite import Prompt, Suite
from harness.results import all_runs
from harness.results.run import Run
from harness.results.run_state import RunState
from harness.runs.generate import Generator
from harness.runs.shared_text import FOLDER
from harness.system.errors import UserError
from tests.conftest import ROOT
from tests.support.generation import make_all
from tests.support.runs import run

SMALL = ("model.latent_size=[8,8]", "method=rtn_int4")
PROMPTS = [f"prompt {i}" for i in range(5)]


@dataclass(frozen=True)
class Slow(HashText):
    """An encoder that says what is asked of it in a file, and takes its time."""

    log: str = ""
    weights: str | None = "first"
    wait_s: float = 0.0

    def origin(self) -> str | None:
        file = self._beside("weights")
        return file.read_text() if file.exists() else self.weights

    def to(self, device: torch.device) -> None:
        self._say("loaded")

    def encode(self, prompts: Sequence[str]) -> Tensor:
        for prompt in prompts:
            self._say(prompt)
            time.sleep(self.wait_s)
            while prompt == os.environ.get("HOLD_AT") and not self._beside("resume").exists():
                time.sleep(0.005)
        return super().encode(prompts)

    def _beside(self, name: str) -> Path:
        return Path(self.log).with_name(name)

    def _say(self, line: str) -> None:
        with Path(self.log).open("a") as file:
            file.write(line + "\n")


def slow_run(folder: Path, *overrides: str, **encoder: Any) -> Run:
    """A run with that encoder below `folder`, and its log beside the results."""
    this = run(folder / "results", *SMALL, *overrides)
    settings = {
        "_target_": "tests.runs.test_embeddings.Slow",
        "log": str(folder / "log"),
        "length": 3,
    }
    width = this.model["dims"]["text_dim"]
    prompts = tuple(Prompt(i, text) for i, text in enumerate(PROMPTS))
    return replace(
        this,
        model={**this.model, "text": settings | {"width": width} | encoder},
        suite=Suite("mine", prompts, "custom", "0" * 64, 6),
    )


def encoded(this: Run, prompts: Sequence[str] = PROMPTS) -> Generator:
    """A process's start: everything built, prompts encoded."""
    generator = Generator(this)
    generator.encode(prompts)
    return generator


def asked(folder: Path) -> list[str]:
    """What was asked of the encoder so far."""
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []


def files(folder: Path) -> list[Path]:
    return sorted((folder / "results" / FOLDER).glob("*/*.safetensors"))


def test_the_next_run_finds_every_prompt_and_loads_nothing(tmp_path: Path) -> None:
    """Rows, seconds and peaks are those of the run that encoded."""
    first = encoded(slow_run(tmp_path, wait_s=0.02)).texts
    assert asked(tmp_path) == ["loaded", *PROMPTS]
    again = encoded(slow_run(tmp_path, "method=bf16", wait_s=0.02)).texts
    assert asked(tmp_path) == ["loaded", *PROMPTS]
    assert list(again) == PROMPTS
    for prompt, (rows, meter) in first.items():
        found, told = again[prompt]
        assert found.dtype == rows.dtype and torch.equal(found, rows)
        assert found.any()
        assert meter.seconds["text"] >= 0.02 and meter.peaks["text"] > 0 and meter.ledgers["text"]
        for name in ("seconds", "peaks", "peak_reserved", "ledgers"):
            assert getattr(told, name) == getattr(meter, name), name


def test_only_what_is_missing_is_encoded(tmp_path: Path) -> None:
    encoded(slow_run(tmp_path), PROMPTS[:2])
    more = encoded(slow_run(tmp_path), [PROMPTS[3], PROMPTS[0], PROMPTS[3], PROMPTS[2]])
    assert asked(tmp_path) == ["loaded", *PROMPTS[:2], "loaded", PROMPTS[3], PROMPTS[2]]
    assert set(more.texts) == {PROMPTS[0], PROMPTS[2], PROMPTS[3]}


@pytest.mark.slow
def test_videos_are_the_same_bit_for_bit_with_and_without_sharing(tmp_path: Path) -> None:
    """And the row of a run that encoded nothing says what encoding took."""
    frames = {}
    for name, weights in {"alone": None, "first": "first", "later": "first"}.items():
        folder = tmp_path / name
        if name == "later":
            shutil.copytree(tmp_path / "first" / "results" / FOLDER, folder / "results" / FOLDER)
        # One log for all, since where it lies is one of the encoder's settings.
        log = str(tmp_path / "log")
        this = slow_run(folder, weights=weights, log=log, wait_s=0.05)
        this = replace(this, suite=replace(this.suite, prompts=this.suite.prompts[:1]))
        this.make_folders()
        make_all(this)
        assert not RunState.read(this.folder).missing(this)
        frames[name] = this.video(this.items[0]).with_suffix(".npy").read_bytes()
        row = all_runs.load_run(this.folder).iloc[0]
        assert row["text_s"] >= 0.05 and row["peak_text_bytes"] > 0
        assert len(files(folder)) == (weights is not None)
    assert asked(tmp_path) == ["loaded", PROMPTS[0]] * 2
    assert frames["alone"] == frames["first"] == frames["later"]


def test_an_encoder_without_weights_leaves_no_files(tmp_path: Path) -> None:
    this = run(tmp_path, *SMALL)
    assert list(encoded(this).texts) == PROMPTS
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.parametrize("change", ["seed", "length", "weights", "dtype"])
def test_what_decides_the_rows_is_not_shared(tmp_path: Path, change: str) -> None:
    encoded(slow_run(tmp_path), PROMPTS[:1])
    if change == "weights":  # other files under the same name: no setting tells
        (tmp_path / "weights").write_text("second")
    dtype = ["model.dtype=float32"] if change == "dtype" else []
    settings = {change: 4} if change in ("seed", "length") else {}
    other = encoded(slow_run(tmp_path, *dtype, **settings), PROMPTS[:1])
    assert asked(tmp_path) == ["loaded", PROMPTS[0]] * 2
    rows = other.texts[PROMPTS[0]][0]
    expected = other.model.text.encode(PROMPTS[:1])[0]
    assert torch.equal(rows, expected.to(rows.dtype))
    assert len({path.parent for path in files(tmp_path)}) == 2


def test_another_version_of_the_encoder_does_not_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same class by the same name, after an edit of the file in which it is written."""
    module = tmp_path / "edited_encoder.py"
    monkeypatch.syspath_prepend(tmp_path)
    source = "from tests.runs.test_embeddings import Slow\n\nclass Edited(Slow):\n    pass\n"
    for edit in ("", "# edited\n"):
        module.write_text(source + edit)
        this = slow_run(tmp_path, _target_="edited_encoder.Edited")
        encoded(this, PROMPTS[:1])
    assert asked(tmp_path) == ["loaded", PROMPTS[0]] * 2


def test_where_data_and_results_lie_does_not_matter(tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    encoded(slow_run(tmp_path / "old", log=log))
    shutil.move(tmp_path / "old", tmp_path / "new")
    encoded(replace(slow_run(tmp_path / "new", log=log), data_dir="/moved", seed=3))
    assert asked(tmp_path) == ["loaded", *PROMPTS]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def retype(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"BF16"', b'"F16" '))


def swap(path: Path) -> None:
    shutil.copy(next(other for other in files(path.parents[3]) if other != path), path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, retype, swap])
def test_a_damaged_file_is_made_anew(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = encoded(slow_run(tmp_path)).texts
    capsys.readouterr()
    path = files(tmp_path)[0]
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    fixed = encoded(slow_run(tmp_path)).texts
    said = capsys.readouterr().err.splitlines()
    assert said == [f"warning: {path} is damaged and made anew"]
    again = asked(tmp_path)[1 + len(PROMPTS) :]
    assert again[0] == "loaded" and len(again) == 2
    for prompt in PROMPTS:
        assert torch.equal(fixed[prompt][0], good[prompt][0])
    encoded(slow_run(tmp_path))
    assert len(asked(tmp_path)) == 1 + len(PROMPTS) + 2


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Unless everything is there already."""
    encoded(slow_run(tmp_path))
    text = tmp_path / "results" / FOLDER
    (next(text.iterdir()) / ".lock").unlink()
    (next(text.iterdir()) / ".lock").mkdir()  # no permission would not stop a superuser
    encoded(slow_run(tmp_path))
    shutil.rmtree(text)
    text.write_text("no folder")
    with pytest.raises(UserError, match=r"cannot write .*\.text.*: type results_dir="):
        encoded(slow_run(tmp_path))


CHILD = """
import sys, time
from pathlib import Path
from tests.runs.test_embeddings import PROMPTS, as_bytes, slow_run
from harness.runs.generate import Generator

folder, name = Path(sys.argv[1]), sys.argv[2]
generator = Generator(slow_run(folder))
(folder / f"{name}.ready").touch()
while not (folder / f"{name}.go").exists():
    time.sleep(0.005)
generator.encode(PROMPTS)
(folder / f"{name}.rows").write_bytes(as_bytes(generator))
"""


@contextmanager
def children(folder: Path, *names: str, holds: str = "") -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have built everything and wait for `go`; killed when the test ends.

    The first of them stays in the encoding of `holds` until there is a file `resume`.
    """
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), name],
            cwd=ROOT,
            env=os.environ | ({"HOLD_AT": holds} if name == names[0] else {}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    try:
        until(lambda: all((folder / f"{name}.ready").exists() for name in names), started)
        yield started
    finally:
        for child in started:
            child.kill()
            child.wait()


def until(condition: Callable[[], bool], started: Sequence[subprocess.Popen[str]]) -> None:
    """Wait for something that children do, as long as they live."""
    while not condition():
        for child in started:
            if child.poll():
                pytest.fail(child.communicate()[1])
        time.sleep(0.005)


def waits(child: subprocess.Popen[str]) -> bool:
    """Whether the first thing that a child says is that it waits."""
    assert child.stderr is not None
    return "waiting for another run that encodes" in child.stderr.readline()


def alone(folder: Path) -> bytes:
    """The rows as one process makes them, without sharing."""
    return as_bytes(encoded(slow_run(folder, weights=None, log=os.devnull)))


def as_bytes(generator: Generator) -> bytes:
    """The rows of all prompts."""
    rows = torch.stack([generator.texts[prompt][0] for prompt in PROMPTS])
    return rows.view(torch.uint8).numpy().tobytes()


@pytest.mark.slow
def test_three_at_once_encode_every_prompt_once(tmp_path: Path) -> None:
    names = ("one", "two", "three")
    with children(tmp_path, *names, holds=PROMPTS[1]) as started:
        (tmp_path / "one.go").touch()
        until(lambda: asked(tmp_path) == ["loaded", *PROMPTS[:2]], started)
        for name, child in zip(names[1:], started[1:], strict=True):
            (tmp_path / f"{name}.go").touch()
            assert waits(child)
        (tmp_path / "resume").touch()
        said = [child.communicate()[1] for child in started]
        assert [child.returncode for child in started] == [0, 0, 0], said
    assert asked(tmp_path) == ["loaded", *PROMPTS]
    for name in names:
        assert (tmp_path / f"{name}.rows").read_bytes() == alone(tmp_path)


@pytest.mark.slow
def test_one_is_killed_and_the_other_completes(tmp_path: Path) -> None:
    """What was made stays; the prompt in flight is the only one encoded again."""
    with children(tmp_path, "one", "two", holds=PROMPTS[2]) as (first, second):
        (tmp_path / "one.go").touch()
        until(lambda: asked(tmp_path) == ["loaded", *PROMPTS[:3]], [first])
        (tmp_path / "two.go").touch()
        assert waits(second)
        first.send_signal(signal.SIGKILL)
        assert first.wait() == -signal.SIGKILL
        said = second.communicate()[1]
        assert second.returncode == 0, said
    assert asked(tmp_path) == ["loaded", *PROMPTS[:3], "loaded", *PROMPTS[2:]]
    assert (tmp_path / "two.rows").read_bytes() == alone(tmp_path)
    assert len(files(tmp_path)) == len(PROMPTS)
