"""Links and copies in folders of results, and where nothing may be written or sent."""

from __future__ import annotations

import json
import os
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from io import BytesIO
from pathlib import Path

import pytest

from analysis.__main__ import main as analysis
from analysis.report.folder import link
from analysis.sources.results import sections
from harness.benchmarks.made_up import write_results
from harness.checks import results as integrity
from harness.commands import score
from harness.downloads.source import _KeepsTls
from harness.results import all_runs, manifest
from harness.results.observations import OBSERVATIONS, Twice
from harness.results.run import REQUEST, Run
from harness.runs import lease
from harness.system.errors import UserError
from harness.system.files import locked, whole_file, write_json
from tests.support.filmed import write_filmed
from tests.support.scored import FAITHFUL, finish, pair


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_results(tmp_path / "results", 6, 2)
    return tmp_path / "results"


def run_of(results: Path) -> Path:
    return min(path.parent for path in results.glob(f"**/{OBSERVATIONS}"))


def beside(results: Path) -> None:
    run = run_of(results)
    shutil.copytree(run, run.with_name(f"copy-{run.name}"))


def renamed(results: Path) -> None:
    run = run_of(results)
    shutil.copytree(run, run.with_name("kept for later"))


def nested(results: Path) -> None:
    shutil.copytree(results, results.with_name("x"))
    results.with_name("x").rename(results / "backup")


def inside_a_run(results: Path) -> None:
    run = run_of(results)
    shutil.copytree(run, results.with_name("x"))
    results.with_name("x").rename(run / "old")


def another_suite(results: Path) -> None:
    run = run_of(results)
    shutil.copytree(run, results / "storyeval" / "small" / run.name)


def a_link_to_a_copy(results: Path) -> None:
    run = run_of(results)
    away = results.with_name("away")
    shutil.copytree(run, away / run.name)
    (results / "linked").symlink_to(away)


READERS: dict[str, Callable[[Path], object]] = {
    "load": all_runs.load,
    "write_wide": all_runs.write_wide,
    "sections": sections,
}
VERBS = ["table", "tables --source", "choose --best ssim --source", "report"]


@pytest.mark.parametrize(
    "copied", [beside, renamed, nested, inside_a_run, another_suite, a_link_to_a_copy]
)
def test_a_run_that_is_there_twice_is_named_by_every_reader(
    results: Path,
    tmp_path: Path,
    copied: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_id = run_of(results).name[-8:]
    copied(results)
    for name, read in READERS.items():
        with pytest.raises(Twice, match=f"run {run_id} is there more than once, in ") as said:
            read(results)
        assert len(said.value.folders) == 2, name
    monkeypatch.chdir(tmp_path)
    for verb in VERBS:
        assert analysis([*verb.split(), str(results)]) == 2
        assert "is there more than once" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert integrity.check([results]) == 1
    assert f"run {run_id} is there 2 times (" in capsys.readouterr().out
    assert score.main([str(results), "metrics=[psnr]"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_run_beside_its_copy_is_not_continued(tmp_path: Path) -> None:
    this, _ = pair(tmp_path, {})
    shutil.copytree(this.folder, this.folder.with_name(f"copy-{this.folder.name}"))
    again = Run(**{name: getattr(this, name) for name in Run.__dataclass_fields__})
    with pytest.raises(Twice):
        _ = again.folder


@pytest.mark.parametrize("depth", [0, 1, 2], ids=["suite", "model", "run"])
def test_links_to_folders_are_followed_once(results: Path, tmp_path: Path, depth: int) -> None:
    rows = len(all_runs.load(results))
    moved = run_of(results)
    for _ in range(2 - depth):
        moved = moved.parent
    away = moved.rename(tmp_path / "disk")
    moved.symlink_to(away)
    (results / "loop").symlink_to(results)
    (results / "again").symlink_to(moved)
    (results / "dangling").symlink_to("nowhere")
    assert len(all_runs.load(results)) == rows
    assert len(manifest.runs([results])) == 2
    assert len(manifest.runs([results, away, results / "again"])) == 2


# Links where something is written


@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "fifo"])
def test_a_lock_that_is_no_file_is_said_and_its_target_stays(tmp_path: Path, kind: str) -> None:
    target, lock = tmp_path / "precious", tmp_path / ".lock"
    target.write_text("content")
    if kind == "folder":
        lock.mkdir()
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.symlink_to(target if kind == "link" else tmp_path / "nowhere")
    with pytest.raises(UserError, match="is a link or no file"), locked(tmp_path, ""):
        pass
    assert target.read_text() == "content" and not (tmp_path / "nowhere").exists()


def test_a_lock_keeps_its_content(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("content")
    with locked(tmp_path, ""):
        pass
    assert (tmp_path / ".lock").read_text() == "content"


def test_a_whole_file_goes_through_no_link(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("content")
    (tmp_path / f".a.{os.getpid()}.unfinished").symlink_to(target)
    (tmp_path / "a").symlink_to(target)
    with whole_file(tmp_path / "a") as unfinished:
        unfinished.write_text("new")
    assert target.read_text() == "content"
    assert not (tmp_path / "a").is_symlink() and (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("name", ["videos", "trace", ".lock"])
def test_a_run_is_not_written_through_links(tmp_path: Path, name: str) -> None:
    this, reference = pair(tmp_path / "results", FAITHFUL)
    finish(reference, this)
    away = tmp_path / "away"
    (this.folder / name).rename(away)
    (this.folder / name).symlink_to(away)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="link"), this.held():
        pass
    assert score.main([str(tmp_path / "results"), "metrics=[psnr,ssim]"]) == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["link", "dangling", "file"])
def test_a_folder_of_leases_that_is_none_stays_as_it_is(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, leases = tmp_path / "private", tmp_path / "video-kv-bench-leases"
    private.mkdir(mode=0o700)
    if kind == "file":
        leases.touch(mode=0o600)
    else:
        leases.symlink_to(private if kind == "link" else tmp_path / "nowhere")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(UserError, match="links are not followed"):
        lease.folder()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


def test_a_lease_that_is_a_link_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    folder = lease.folder()
    assert stat.S_IMODE(folder.stat().st_mode) == lease.SHARED
    (tmp_path / "precious").write_text("content")
    (folder / "gpu-0.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a link"), lease.held(["gpu-0"], 1, "GPU"):
        pass
    assert (tmp_path / "precious").read_text() == "content"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/x/../../escaped", "..", "a/b", "\x1b[2J"])
def test_figures_and_sheets_stay_in_their_folder(
    results: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    from harness.system import parquet

    for path in results.glob(f"**/{OBSERVATIONS}"):
        table = parquet.checked(path)
        at = table.schema.get_field_index("suite")
        suites = pa.array([name] * table.num_rows, pa.string())
        parquet.write(path, table.set_column(at, table.schema.field(at), suites))
    out = tmp_path / "a" / "b" / "out"
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    words = ["figures", "--figure", "memory-quality", "--source", str(results), "--out", str(out)]
    analysis(words)
    monkeypatch.setattr("analysis.sheets._draw", lambda path, *_: path.touch())
    analysis(["sheets", str(results), "--out", str(out)])
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert made and all(path.parent == out for path in made)


def test_an_mp4_that_is_a_link_is_left_out_of_the_report_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    write_filmed(results)
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    film = min(results.glob("**/*.mp4"))
    film.unlink()
    film.symlink_to(secret)
    assert analysis(["report", str(results), "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(b"a secret" in path.read_bytes() for path in files)
    assert any(b"are links, which are not followed" in path.read_bytes() for path in files)
    link(film, tmp_path / "copy.mp4")
    assert (tmp_path / "copy.mp4").is_symlink()


# Requests of others


@pytest.mark.parametrize(
    "changes",
    [
        {"model_name": "../../x"},
        {"model_name": "/etc"},
        {"method_name": "a\x1b[2Jb"},
        {"reference_id": "*"},
        {"reference_id": "../../../x"},
        {"model_name": 7},
        {"suite": {"name": "../..", "source": "", "sha256": "", "num_frames": 3, "prompts": []}},
    ],
    ids=str,
)
def test_a_request_leads_nowhere_else(tmp_path: Path, changes: dict[str, object]) -> None:
    this, _ = pair(tmp_path, {})
    content = json.loads((this.folder / REQUEST).read_text())
    del content["sha256"]
    write_json(this.folder / REQUEST, content | changes)
    with pytest.raises(UserError, match=f"{REQUEST} cannot be read"):
        Run.from_folder(this.folder)


TARGETS = ["os.system", "psutil.Popen", "harness.system.files.write_json", "builtins.eval"]


@pytest.mark.parametrize("target", TARGETS)
def test_score_and_choose_build_nothing_that_a_request_names(
    tmp_path: Path, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    this, reference = pair(tmp_path / "a", FAITHFUL)
    finish(reference, this)
    content = json.loads((this.folder / REQUEST).read_text())
    del content["sha256"]
    content["model"]["decoder"]["_target_"] = target
    changed = Run.from_folder(this.folder)
    changed.model["decoder"]["_target_"] = target
    folder = this.folder.rename(this.folder.with_name(f"x-{changed.run_id}"))
    write_json(folder / REQUEST, content)
    assert score.main([str(tmp_path / "a"), "metrics=[psnr]"]) == 2
    assert repr(target) in capsys.readouterr().err
    write_results(tmp_path / "b", 6, 2)
    for path in (tmp_path / "b").glob(f"**/{REQUEST}"):
        content = json.loads(path.read_text())
        content.pop("sha256", None)
        content["method"]["key"] = {"_target_": target, "_args_": [f"touch {tmp_path}/made"]}
        write_json(path, content)
    analysis(["choose", "--card-gib", "80", "--source", str(tmp_path / "b")])
    said = capsys.readouterr()
    assert repr(target) in said.out + said.err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("stored", "typed", "sent"),
    [
        ({"mode": "online", "project": "theirs"}, ["track=disabled"], None),
        ({"mode": "online", "project": "theirs"}, ["track.mode=offline"], "offline"),
        ({"mode": "disabled", "project": "theirs"}, [], None),
        ({"mode": "disabled", "project": "theirs"}, ["track.mode=offline"], "offline"),
        ({"mode": "offline", "project": "theirs"}, ["track.project=mine"], "auto"),
    ],
)
def test_a_request_does_not_decide_what_is_sent_where(
    tmp_path: Path,
    stored: dict[str, str],
    typed: list[str],
    sent: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair(tmp_path, {})
    for path in tmp_path.glob(f"**/{REQUEST}"):
        content = json.loads(path.read_text()) | {"track": stored}
        del content["sha256"]
        write_json(path, content)
    seen: list[Run] = []
    monkeypatch.setattr(score, "mirror", lambda run: seen.append(run))
    assert score.main([str(tmp_path), "metrics=[psnr]", *typed]) == 0
    modes = {run.track["mode"] for run in seen} - {"disabled"}
    assert modes == ({sent} if sent else set())
    assert all(run.track["project"] != "theirs" for run in seen)


# Redirections


@pytest.mark.parametrize(
    ("old", "new", "followed"),
    [
        ("https://a/x", "http://a/x", False),
        ("https://a/x", "http://127.0.0.1/x", False),
        ("https://a/x", "ftp://a/x", False),
        ("https://a/x", "file:///etc/passwd", False),
        ("https://a/x", "https://b/x", True),
        ("http://a/x", "https://b/x", True),
        ("http://a/x", "http://b/x", True),
    ],
)
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirection_leaves_https(old: str, new: str, followed: bool, code: int) -> None:
    asked = urllib.request.Request(old)
    handler = _KeepsTls()
    if followed:
        request = handler.redirect_request(asked, BytesIO(), code, "moved", Message(), new)
        assert request is not None and request.full_url == new
    else:
        with pytest.raises(urllib.error.HTTPError, match="is not https"):
            handler.redirect_request(asked, BytesIO(), code, "moved", Message(), new)
