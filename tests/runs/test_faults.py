"""What dies, fills up, is cut in half or jumps must not cost a row: tried with real processes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from harness.prompts.suite import Prompt
from harness.results import all_runs, manifest, observations
from harness.results.observations import OBSERVATIONS
from harness.results.run import Execution, Run
from harness.results.run_state import RunState
from harness.results.scores import SCORES
from harness.results.video_files import frames_file, read_frames
from harness.runs.job import generate
from harness.system.errors import UserError
from tests.conftest import Sweep
from tests.support.faults import SHORT, Place, Running, errors, gone, tmpfs, until
from tests.support.runs import run

KILLS = 20
MEASURED = r"_s$|^peak_.*bytes$"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty results folder; commands that a failed test leaves behind are ended."""
    here = Place(tmp_path)
    yield here
    _end(here)


def _end(here: Place) -> None:
    for each in here.started:
        if not each.ended():
            each.process.kill()
            each.wait()


@pytest.fixture(scope="module")
def finished(make_sweep: Callable[..., Sweep]) -> Place:
    """BF16 and a method, two videos each, done."""
    return Place(make_sweep("faults", [*SWEEP, *SHORT]).results.parent)


SWEEP = ("-m", "method=bf16,rtn_int4", "suite.num_prompts=2")


@pytest.fixture
def copied(finished: Place, place: Place) -> Place:
    """The finished runs, moved elsewhere, to be damaged."""
    shutil.copytree(finished.results, place.results)
    return place


def folder_of(here: Place, method: str) -> Path:
    (folder,) = here.results.glob(f"*/*/{method}-*")
    return folder


def table(path: Path) -> pd.DataFrame:
    """What a run is, without what was measured while it was made."""
    rows = pd.read_parquet(path)
    return rows[rows.columns[~rows.columns.str.contains(MEASURED)]]


# --- killed anywhere -------------------------------------------------------------------------


class Watch:
    """What was once in place, and must stay as it is: rows by their seconds, packed files."""

    def __init__(self, here: Place) -> None:
        self._here = here
        self._seconds: dict[tuple[str, int], float] = {}
        self._packed: dict[Path, int] = {}

    def look(self) -> None:
        """Compare with what was there before, and remember what is new."""
        for path in sorted(self._here.results.glob(f"*/*/*/{OBSERVATIONS}")):
            rows = pd.read_parquet(path)
            assert not rows.duplicated(observations.KEY).any()
            made = rows[rows["failure"].isna()]
            seconds = made.set_index("prompt_index")["generate_s"].to_dict()
            now = {(path.parent.name, int(index)): s for index, s in seconds.items()}
            known = {k: s for k, s in self._seconds.items() if k[0] == path.parent.name}
            assert known.items() <= now.items(), "a row was lost, or its video made again"
            self._seconds |= now
        for path, inode in self._packed.items():
            assert path.stat().st_ino == inode, f"{path} was packed again"
        for path in self._here.results.glob("**/*.mkv"):
            if not path.name.startswith("."):
                self._packed.setdefault(path, path.stat().st_ino)


@pytest.mark.slow
def test_killed_anywhere_twenty_times_and_typed_again(tmp_path: Path) -> None:
    words = ("method=rtn_int4", "suite.num_prompts=6")
    calm, killed = Place(tmp_path / "calm"), Place(tmp_path / "killed")
    for here in (calm, killed):
        here.root.mkdir()
    undisturbed = calm.run(*words)
    assert undisturbed.wait() == 0, undisturbed.said
    watch, stages = Watch(killed), _kill_again_and_again(killed, words, random.Random(20))
    print("killed at", stages)
    assert len(stages) == KILLS
    watch.look()
    last = killed.run(*words)
    assert last.wait() == 0, last.said
    watch.look()
    for method in ("rtn_int4", "bf16"):
        one, other = folder_of(calm, method), folder_of(killed, method)
        for name in (OBSERVATIONS, SCORES):
            pd.testing.assert_frame_equal(table(one / name), table(other / name))
            assert len(pd.read_parquet(other / name)) == 6
        assert json.loads((other / manifest.MANIFEST).read_text())["num_videos"] == 6
        finished = sum(each.progress.count(method) for each in killed.started)
        assert finished <= 6, "a video was made again that was not in flight"
    pd.testing.assert_frame_equal(
        table(calm.results / all_runs.WIDE), table(killed.results / all_runs.WIDE)
    )
    assert not list(killed.results.glob("**/*.npy"))


def _kill_again_and_again(here: Place, words: tuple[str, ...], dice: random.Random) -> list[str]:
    """Kill 20 times, child and parent in turn, at random points; where it happened.

    A command is killed when it has finished 0 to 2 videos more than before, and a random moment
    later; one whose child is killed may go on, and is killed again later.
    """
    watch = Watch(here)
    steps = [0] * 9 + [1] * 9 + [2] * 2
    victims = ["child", "parent"] * (KILLS // 2)
    dice.shuffle(steps)
    stages: list[str] = []
    command: Running | None = None
    for step, victim in zip(steps, victims, strict=True):
        at = None
        while at is None:
            if command is None or command.ended():
                assert command is None or command.wait(), "it was done before it was killed enough"
                command = here.start(*words)
            at = _struck(command, victim, step, dice)
        stages.append(f"{victim} {at}")
        watch.look()
    assert command is not None
    until(command.ended, "the end of the last command")
    assert not any("waiting for" in each.said for each in here.started), "a lock outlived its owner"
    return stages


def _struck(command: Running, victim: str, step: int, dice: random.Random) -> str | None:
    """Kill a command's parent or child at a random point; says at which, None if it was over."""
    wanted = len(command.progress) + step
    until(
        lambda: command.ended() or (bool(command.children()) and len(command.progress) >= wanted),
        "progress",
    )
    pause = dice.uniform(0, 0.3 if step else 2.0)  # a child is set up first
    with suppress(subprocess.TimeoutExpired):
        command.process.wait(pause)
    children: list[psutil.Process] = []
    until(lambda: bool(children.extend(command.children()) or children) or command.ended(), "child")
    if not children:
        return None
    at = f"at video {len(command.progress)} of this command"
    if victim == "parent":
        command.process.kill()
        assert command.wait() == -9
    else:
        children[0].kill()
    psutil.wait_procs(children, timeout=10)
    assert all(gone(child) for child in children), "a child outlived its parent"
    return at


@pytest.mark.slow
def test_a_row_stays_when_its_process_dies_right_after_it(place: Place) -> None:
    place.hook = (
        "import os, signal, sys\n"
        "if 'generate' in sys.orig_argv:\n"
        "    from harness.runs.child import Reports\n"
        "    Reports.ends = lambda *said: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = place.run("method=bf16", "suite.num_prompts=1")
    assert done.wait() == 0, done.said
    assert "was killed by SIGKILL; finished videos are kept" in done.said
    assert pd.read_parquet(place.results / all_runs.WIDE)["failure"].isna().all()


@pytest.mark.slow
def test_two_identical_commands_at_once(place: Place) -> None:
    words = ("method=bf16", "suite.num_prompts=3")
    first = place.start(*words)
    until(lambda: bool(first.children()) or first.ended(), "the first one's child")
    second = place.start(*words)
    assert (first.wait(), second.wait()) == (0, 0), first.said + second.said
    assert "waiting for another command that works on" in second.said
    assert first.progress == ["bf16"] * 3 + ["bf16 score"] * 3
    assert second.progress == []
    assert len(pd.read_parquet(folder_of(place, "bf16") / OBSERVATIONS)) == 3


# --- causes of death -------------------------------------------------------------------------

TROUBLES = [
    ("", None, ""),
    ("raise", "error", "KeyError: 'boom' ("),
    ("memory", "oom", "can't allocate memory"),
    ("abort", "crash", "crashed with SIGABRT"),
    ("", None, ""),
    ("segv", "crash", "crashed with SIGSEGV"),
    ("", None, ""),
    ("sys.exit 0", "crash", "sys.exit(0) ("),
    ("", None, ""),
    ("sys.exit 2", "crash", "sys.exit(2) ("),
    ("", None, ""),
    ("os._exit 0", "crash", "exit code 0 and no word"),
    ("", None, ""),
    ("os._exit 2", "crash", "exit code 2 and no word"),
    ("", None, ""),
    ("SIGTERM", "killed", "was killed by SIGTERM"),
    ("", None, ""),
    ("sleep", "timeout", "took longer than run.timeout_s=30 a video"),
    ("", None, ""),
]


def troubled(folder: Path) -> Run:
    """A run whose method meets a trouble a video."""
    this = run(folder)
    prompts = tuple(Prompt(i, f"prompt {i}") for i in range(len(TROUBLES)))
    retention = {"_target_": "tests.support.faults.Trouble", "plan": str(folder / "plan")}
    return replace(
        this,
        method={**this.method, "retention": retention},
        suite=replace(this.suite, prompts=prompts, num_frames=3),
        execution=Execution("cpu", threads=1, timeout_s=30),
    )


@pytest.mark.slow
def test_every_death_is_a_row_and_the_next_videos_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = {
        *psutil.Process().children()
    }  # the server that forks commands, if others asked for it
    this = troubled(tmp_path)
    (tmp_path / "plan").write_text("\n".join(trouble for trouble, *_ in TROUBLES))
    with this.prepared() as lock:
        generate(this, lock, RunState.read(this.folder))
    rows = observations.observations(this.folder)
    assert [row["failure"] for row in rows] == [cause for _, cause, _ in TROUBLES]
    for row, (_, _, reason) in zip(rows, TROUBLES, strict=True):
        assert reason in (row["failure_reason"] or ""), row
        assert (frames_file(this.video(this.items[row["prompt_index"]])) is None) == bool(reason)
    assert "in strike)" in rows[1]["failure_reason"]
    failure = RunState.read(this.folder).failure(this)
    assert failure is not None
    assert failure.reason.startswith("10 of 19 videos failed, prompt 1 by: KeyError: 'boom'")
    assert not {*psutil.Process().children()} - before, "a child is left"
    assert "waiting for" not in capfd.readouterr().err, "a dead child's lease was not free"

    again = [item.prompt.index for item in RunState.read(this.folder).missing(this)]
    assert again == [15], "only what was killed from outside is tried again unasked"
    for retry, number in (("oom", 2), ("failed", 10)):
        asked = replace(this, execution=replace(this.execution, retry=retry))
        assert len(RunState.read(asked.folder).missing(asked)) == number
    with asked.prepared() as lock:
        generate(asked, lock, RunState.read(asked.folder))
    assert set(RunState.read(this.folder).made) == {item.key for item in this.items}
    assert RunState.read(this.folder).failure(this) is None


@pytest.mark.slow
def test_a_model_that_does_not_fit_is_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    this = run(tmp_path)
    cramped = replace(this, model={**this.model, "_target_": "tests.support.faults.Cramped"})
    with cramped.prepared() as lock:
        generate(cramped, lock, RunState.read(cramped.folder))
    (row,) = observations.observations(cramped.folder)
    assert (row["prompt_index"], row["failure"]) == (0, "oom"), row["failure_reason"]


@pytest.mark.slow
def test_a_child_without_room_for_its_libraries_is_a_row_and_the_sweep_goes_on(
    place: Place,
) -> None:
    words = ("-m", "method=bf16", "suite.seed=0,1", "suite.num_prompts=1")
    done = place.run(*words, limits=[f"--as={1500 * 2**20}"])  # torch maps more than twice of it
    assert done.wait() == 1, done.said
    rows = pd.read_parquet(place.results / all_runs.WIDE)
    assert rows["failure"].tolist() == ["oom", "oom"], done.said
    assert "type the same command with run.retry=oom" in done.said
    assert "oom: 1 of 1 videos failed, prompt 0 by: " in done.said
    assert done.said.count("failed  moviegen/small/bf16-") == 2
    same = place.run(*words)
    assert same.wait() == 1, "failed videos are tried again on request only"
    assert same.progress == []
    again = place.run(*words, "run.retry=oom")
    assert again.wait() == 0, again.said
    rows = pd.read_parquet(place.results / all_runs.WIDE)
    assert len(rows) == 2
    assert rows["failure"].isna().all()


# --- full, read-only, damaged ----------------------------------------------------------------

FILLS_WHEN_SCORING = """
import os, sys
if "score" in sys.orig_argv and os.environ.get("FILL"):
    with open(os.environ["FILL"], "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
"""


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_same_command_completes(place: Place) -> None:
    words = ("method=bf16", "suite.num_prompts=4")
    filler = place.results / "filler"
    place.hook = FILLS_WHEN_SCORING
    with tmpfs(place.results, "16m"):
        filler.write_bytes(bytes(16 * 2**20 - 700 * 1024))  # room for two raw videos
        while_generating = place.run(*words)
        assert while_generating.wait() == 2, while_generating.said
        first = pd.read_parquet(folder_of(place, "bf16") / OBSERVATIONS)
        assert 1 <= len(first) < 4
        assert first["failure"].isna().all()
        filler.unlink()
        while_scoring = place.run(*words, FILL=str(filler))
        assert while_scoring.wait() == 2, while_scoring.said
        for done in (while_generating, while_scoring):
            assert errors(done)[0].startswith("error: no space left under "), done.said
            assert all("o space left" in sentence for sentence in errors(done)), done.said
        filler.unlink()
        done = place.run(*words)
        assert done.wait() == 0, done.said
        assert done.progress == ["bf16 score"] * 4
        rows = pd.read_parquet(place.results / all_runs.WIDE)
        assert rows["generate_s"][: len(first)].tolist() == first["generate_s"].tolist()
        assert rows["video_sha256"].notna().all()
        for index in range(4):
            read_frames(folder_of(place, "bf16") / "videos" / f"{index:04d}-0")


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_said_too(place: Place) -> None:
    words = ("method=bf16", "suite.num_prompts=1")
    done = place.run(*words, limits=["--fsize=100000"])  # raw frames take more
    assert done.wait() == 2, done.said
    (sentence,) = errors(done)
    assert sentence.startswith("error: no space left under ")
    assert "(File too large)" in sentence
    assert not list(place.results.glob("**/.*.unfinished"))


@pytest.mark.slow
def test_results_that_cannot_be_written_are_shown_and_not_continued(
    finished: Place, place: Place
) -> None:
    with tmpfs(place.results, "16m") as again:
        shutil.copytree(finished.results, place.results, dirs_exist_ok=True)
        again("ro")
        same = place.run("method=rtn_int4", "suite.num_prompts=2")
        more = place.run("method=rtn_int4", "suite.num_prompts=3")
        swept = place.run(*SWEEP)
    assert (same.wait(), more.wait()) == (2, 2), same.said + more.said
    assert "Read-only file system" in errors(same)[0]
    assert "results.parquet stays as it was" in errors(same)[0]
    assert "type results_dir=<a folder you may write>" in errors(more)[0]
    assert swept.wait() != 0
    assert "Read-only file system" in errors(swept)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", [OBSERVATIONS, SCORES])
def test_a_parquet_cut_in_half_ends_its_own_job(copied: Place, name: str) -> None:
    path = folder_of(copied, "rtn_int4") / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = copied.run(*SWEEP)
    assert done.wait() == 1, done.said
    assert errors(done)[0].startswith(f"error: {path} is damaged")
    assert "failed  " in done.said
    assert f"settings: {path} is damaged" in done.said
    path.unlink()
    assert copied.run(*SWEEP).wait() == 0
    assert len(pd.read_parquet(copied.results / all_runs.WIDE)) == 4


def test_a_manifest_of_a_version_to_come_is_left_alone(copied: Place) -> None:
    path = folder_of(copied, "rtn_int4") / manifest.MANIFEST
    newer = json.dumps({**json.loads(path.read_text()), "schema_version": 99})
    path.write_text(newer)
    done = copied.run(*SWEEP)
    assert done.wait() == 1, done.said
    (sentence,) = errors(done)
    assert "was written by a newer version of the harness (schema 99" in sentence
    assert path.read_text() == newer


def test_what_is_torn_beside_the_rows_is_written_anew(copied: Place) -> None:
    folder, reference = folder_of(copied, "rtn_int4"), folder_of(copied, "bf16")
    made = (folder / manifest.MANIFEST).read_text()
    for content in ("", made[: len(made) // 2], "[]", "null", '{"schema_version": null}'):
        (folder / manifest.MANIFEST).write_text(content)
        assert not manifest.is_whole(folder)
    for path in (folder / "request.json", reference / "request.json"):
        path.write_text(path.read_text()[:100])
        with pytest.raises(UserError, match="cannot be read"):
            Run.from_folder(path.parent)
    (folder / SCORES).unlink()
    done = copied.run(*SWEEP)
    assert done.wait() == 0, done.said
    assert done.progress == ["rtn_int4 score"] * 2
    assert manifest.is_whole(folder)
    assert Run.from_folder(folder).run_id == Run.from_folder(folder).run_id == folder.name[-8:]


def test_a_damaged_video_stops_its_run_untouched_and_a_deleted_one_is_made_again(
    copied: Place,
) -> None:
    folder = folder_of(copied, "rtn_int4")
    (folder / SCORES).unlink()
    video = folder / "videos" / "0001-0.mkv"
    video.write_bytes(video.read_bytes()[:-1000])
    done = copied.run(*SWEEP)
    assert done.wait() == 1, done.said
    (sentence,) = errors(done)
    assert sentence.startswith(f"error: {video} is ")
    assert f"rm -f {folder}/videos/0001-0.*" in sentence
    assert not (folder / SCORES).exists(), "nothing was added"
    before = pd.read_parquet(folder / OBSERVATIONS)
    video.unlink()  # as the sentence says
    again = copied.run(*SWEEP)
    assert again.wait() == 0, again.said
    assert again.progress == ["rtn_int4", "rtn_int4 score", "rtn_int4 score"]
    after = pd.read_parquet(folder / OBSERVATIONS)
    assert after["frames_sha256"].tolist() == before["frames_sha256"].tolist()
    assert after["generate_s"][0] == before["generate_s"][0]


# --- clocks, and what is finished ------------------------------------------------------------

JUMPING_CLOCK = """
import itertools, time
real, jumps = time.time, itertools.cycle([-400 * 86400, 0, 400 * 86400])
time.time = lambda: real() + next(jumps)
time.time_ns = lambda: int(time.time() * 10**9)
"""


@pytest.mark.slow
def test_clocks_that_jump_change_nothing(copied: Place) -> None:
    before = pd.read_parquet(folder_of(copied, "rtn_int4") / OBSERVATIONS)
    copied.hook = JUMPING_CLOCK
    done = copied.run("method=rtn_int4", "suite.num_prompts=3")
    assert done.wait() == 0, done.said
    assert done.progress == ["rtn_int4", "bf16", "bf16 score", "rtn_int4 score"]
    assert " -" not in "".join(line for line in done.said.splitlines() if " left" in line)
    rows = pd.read_parquet(folder_of(copied, "rtn_int4") / OBSERVATIONS)
    pd.testing.assert_frame_equal(rows[:2], before)
    seconds = rows[[name for name in rows.columns if name.endswith("_s")]]
    assert (seconds >= 0).all(axis=None)


WATCHES = """
import os, sys
def watch(event, words):
    if event == "subprocess.Popen" or event == "import" and words[0] == "torch":
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {words[:2]}\\n")
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_two_hundred_finished_runs_start_nothing(finished: Place, place: Place) -> None:
    original = Run.from_folder(folder_of(finished, "bf16"))
    for seed in range(200):
        _finished_copy(original, replace(original, seed=seed, results_dir=str(place.results)))
    before = {path: path.stat().st_mtime_ns for path in place.results.glob("*/*/*/**/*")}
    place.hook = WATCHES
    watched = place.root / "watched"
    done = place.run(
        "-m", "method=bf16", "suite.seed=range(200)", "suite.num_prompts=2", WATCHED=str(watched)
    )
    assert done.wait() == 0, done.said
    assert not watched.exists(), watched.read_text()
    after = {path: path.stat().st_mtime_ns for path in place.results.glob("*/*/*/**/*")}
    assert after == before
    assert len(pd.read_parquet(place.results / all_runs.WIDE)) == 400
    (records,) = (place.results / ".sweeps").glob("*")
    states = [json.loads(path.read_text())["state"] for path in records.glob("job-*.json")]
    assert states == ["skipped"] * 200


def _finished_copy(original: Run, copy: Run) -> None:
    """The files of a finished run under another identity."""
    copy.make_folders()
    with copy.prepared():
        for path in (original.folder / "videos").iterdir():
            os.link(path, copy.folder / "videos" / path.name)
        changes: dict[str, Any] = {"run_id": copy.run_id}
        for name in (OBSERVATIONS, SCORES):
            rows = pd.read_parquet(original.folder / name).assign(**changes)
            rows.to_parquet(copy.folder / name, index=False)
        manifest.write(copy)
