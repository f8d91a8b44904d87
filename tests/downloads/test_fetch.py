"""Fetching from servers that break off, change their minds or have nothing, onto full disks."""

from __future__ import annotations

import hashlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.commands.fetch import main
from harness.downloads import download, source
from harness.downloads.download import Mismatch
from harness.downloads.source import Unavailable, Unreached
from harness.downloads.target import Target
from harness.system.download_bar import progress
from tests.conftest import ROOT, SHARED
from tests.support.server import Site, serving

CONTENT = random.Random(7).randbytes(3 * 2**20 + 11)
SHA = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2
Put = Callable[..., None]


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(Site({"/big.bin": CONTENT})) as running:
        yield running


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited; nobody waits them."""
    slept: list[float] = []
    monkeypatch.setattr(download, "_pause", slept.append)
    monkeypatch.setattr(download, "_unreached", {})
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HARNESS_DATA", "HARNESS_FETCH_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", os.devnull)
    return slept


@pytest.fixture
def put(tmp_path: Path, site: Site) -> Put:
    """Describe a file of weights in a folder of the user's own, used by the metric `mine`."""
    for group in ("weights", "metrics"):
        (tmp_path / "own" / group).mkdir(parents=True)
    (tmp_path / "own" / "metrics" / "mine.yaml").write_text("# mine\n_target_: mine.Mine\n")

    def write(name: str = "big", **changes: Any) -> None:
        said = {
            "path": f"{name}.bin", "url": f"{site.url}/{name}.bin", "sha256": SHA,
            "bytes": len(CONTENT), "licence": "MIT", "used_by": ["mine"],
        }  # fmt: skip
        path = tmp_path / "own" / "weights" / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**said, **changes}))

    return write


def words(folder: Path, *more: str) -> list[str]:
    own = ["--config-dir", str(folder / "own")] if (folder / "own").is_dir() else []
    return ["weights", "metrics=mine", f"data_dir={folder / 'data'}", *own, *more]


def target(site: Site, folder: Path, **changes: Any) -> Target:
    said: dict[str, Any] = {
        "path": folder / "big.bin", "urls": (f"{site.url}/big.bin",), "start": SHA,
        "said": f"expected {SHA}", "bytes": len(CONTENT),
    }  # fmt: skip
    return Target(**{**said, **changes})


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_says_what_it_will_do_does_it_and_skips_it_then(
    put: Put, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put()
    assert main(words(tmp_path)) == 0
    said = capsys.readouterr().out
    host = site.url.removeprefix("http://")
    assert said.startswith("to fetch: 1 of 1 files, 3.00 MiB, into ")
    assert all(word in said for word in (host, "MIT", "weights/big.bin", "free)", "is there"))
    assert (tmp_path / "data" / "weights" / "big.bin").read_bytes() == CONTENT
    assert left_in(tmp_path / "data" / "weights") == ["big.bin"]
    before = len(site.asked)
    assert main(words(tmp_path)) == 0
    assert "nothing to fetch: the file is there" in capsys.readouterr().out
    assert len(site.asked) == before


def test_a_dropped_connection_goes_on(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    site.drop = [HALF, 1000]
    seen: list[tuple[int, int | None]] = []
    download.download(target(site, tmp_path), lambda *came: seen.append(came))
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    ranges = [each.range for each in site.asked]
    assert ranges == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert sum(each.sent for each in site.asked) == len(CONTENT)
    assert pauses == [1.0, 1.0]  # the first brought much, the second is the first without
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))


def test_a_server_that_never_gets_on_is_given_up(
    site: Site, tmp_path: Path, pauses: list[float]
) -> None:
    site.drop = [10] * 20
    with pytest.raises(Unavailable, match="of 3145739 bytes"):
        download.download(target(site, tmp_path))
    assert pauses == list(download.PAUSES_S)
    assert (tmp_path / "big.bin.part").stat().st_size == 60  # kept for another time
    site.drop = []
    download.download(target(site, tmp_path))
    assert site.asked[-1].range == "bytes=60-"


def test_a_network_that_goes_away_is_waited_for_once_it_was_there(
    site: Site, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the beginning it is not, and its host is not tried for another file either."""
    tried: list[int] = []

    def opened(url: str, offset: int = 0, tag: str = "") -> Any:
        tried.append(offset)
        if len(tried) in gone:
            raise Unreached("cannot reach it")
        return source.opened(url, offset, tag)

    monkeypatch.setattr(download, "opened", opened)
    gone, site.drop = {2, 3}, [HALF]
    download.download(target(site, tmp_path))
    assert tried == [0, HALF, HALF, HALF]
    assert pauses == [1.0, 1.0, 2.0]
    gone = {5}
    for name in ("one", "two"):
        with pytest.raises(Unavailable, match="cannot reach it"):
            download.download(target(site, tmp_path, path=tmp_path / name))
    assert len(tried) == 5


def test_busy_servers_are_asked_again(site: Site, tmp_path: Path, pauses: list[float]) -> None:
    site.status = [503, 0, 429]
    download.download(target(site, tmp_path))
    assert pauses == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("case", ["changed", "deaf", "longer", "no range"])
def test_a_part_that_cannot_go_on_begins_again(site: Site, tmp_path: Path, case: str) -> None:
    """Another version, by ETag (heeded by the server or not) or by size; a server without Range.

    No checksum is published, so that nothing but this notices a file made of two.
    """
    site.drop = [HALF]
    other = CONTENT[::-1] + b"more" * (case == "longer")
    if case == "longer":
        site.etag = None
    if case == "no range":
        site.ranges, other = False, CONTENT

    def change(came: int, total: int | None) -> None:
        if came == HALF and case != "no range":
            site.files["/big.bin"] = other
            site.etag = site.etag and '"two"'
            site.heeds_etag = case == "changed"

    download.download(target(site, tmp_path, start="", bytes=None), change)
    assert (tmp_path / "big.bin").read_bytes() == other
    assert site.asked[1].range == f"bytes={HALF}-"
    assert len(site.asked) == (2 if case in ("changed", "no range") else 3)
    assert site.bodies[-1].sent == len(other)


def test_a_damaged_part_is_found_out_and_fetched_whole(site: Site, tmp_path: Path) -> None:
    site.drop = [HALF, 0, 0]
    with pytest.raises(Unavailable):
        download.download(target(site, tmp_path), pauses=(0,))
    part = tmp_path / "big.bin.part"
    part.write_bytes(b"\0" * part.stat().st_size)
    download.download(target(site, tmp_path))
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert left_in(tmp_path) == ["big.bin"]


def test_a_wrong_checksum_says_both_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match=f"now has SHA-256 {SHA}, expected {'0' * 64}"):
        download.download(target(site, tmp_path, start="0" * 64, said=f"expected {'0' * 64}"))
    assert left_in(tmp_path) == []
    assert len(site.asked) == 1


def test_a_length_that_nobody_tells_is_checked_by_what_is_published(
    site: Site, tmp_path: Path
) -> None:
    site.length, site.drop = False, [HALF]
    download.download(target(site, tmp_path))
    assert [each.range for each in site.asked] == [None, f"bytes={HALF}-"]


def test_another_address_serves_where_one_has_nothing(site: Site, tmp_path: Path) -> None:
    site.moved["/old.bin"] = f"{site.url}/big.bin"
    urls = (f"{site.url}/none.bin", f"{site.url}/old.bin")
    site.drop = [HALF]
    download.download(target(site, tmp_path, urls=urls))
    assert (tmp_path / "big.bin").read_bytes() == CONTENT
    assert site.asked[-1].range == f"bytes={HALF}-"  # through the redirection


def test_another_address_serves_where_one_has_another_file(site: Site, tmp_path: Path) -> None:
    site.files["/other.bin"] = CONTENT[::-1]
    urls = (f"{site.url}/other.bin", f"{site.url}/big.bin")
    download.download(target(site, tmp_path, urls=urls))
    assert (tmp_path / "big.bin").read_bytes() == CONTENT


def test_a_web_page_is_no_file(site: Site, tmp_path: Path) -> None:
    """What a portal or a host that wants a login sends, though no checksum would tell."""
    site.kind = "text/html; charset=utf-8"
    with pytest.raises(Unavailable, match="answered with a web page"):
        download.download(target(site, tmp_path, start="", bytes=None))
    assert left_in(tmp_path) == []


def test_a_member_of_a_zip_is_taken_out(put: Put, site: Site, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("models/big.pth", CONTENT)
        archive.writestr("models/other.pth", b"other")
    site.files["/models.zip"] = packed.getvalue()
    site.drop = [HALF]
    put(url=f"{site.url}/models.zip", member="models/big.pth")
    assert main(words(tmp_path)) == 0
    assert (tmp_path / "data" / "weights" / "big.bin").read_bytes() == CONTENT
    assert left_in(tmp_path / "data" / "weights") == ["big.bin"]
    put("bad", url=f"{site.url}/models.zip", member="models/none.pth")
    assert main(words(tmp_path)) == 2
    assert left_in(tmp_path / "data" / "weights") == ["big.bin"]


def test_what_fails_is_said_and_the_rest_goes_on(
    put: Put, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("absent")
    put("big")
    put("offline", url="http://127.0.0.1:9/offline.bin")
    put("wrong", url=f"{site.url}/big.bin", sha256="0" * 64)
    assert main(words(tmp_path)) == 2
    assert (tmp_path / "data" / "weights" / "big.bin").read_bytes() == CONTENT
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [line.split(":")[1].strip() for line in errors[:3]] == ["absent", "offline", "wrong"]
    for line, said in zip(
        errors, ("404", "Connection refused", f"expected {'0' * 64}"), strict=False
    ):
        assert said in line
    assert "3 of 4 files are still missing" in errors[3]
    assert errors[3].endswith(f"type python -m harness fetch {' '.join(words(tmp_path))}")


def test_a_copy_of_a_data_folder_serves_without_network(
    put: Put, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By address and by folder; what others have taken out of a zip lies there as it is."""
    put(url="http://127.0.0.1:9/models.zip", member="models/big.pth")
    site.files["/lab%20copy/weights/big.bin"] = CONTENT
    assert main(words(tmp_path, f"fetch.base={site.url}/lab%20copy")) == 0
    shutil.move(tmp_path / "data", tmp_path / "a copy")
    assert main(words(tmp_path, f"fetch.base={tmp_path / 'a copy'}")) == 0
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setenv("HARNESS_FETCH_BASE", (tmp_path / "a copy").as_uri())
    assert main(words(tmp_path)) == 0
    assert (tmp_path / "data" / "weights" / "big.bin").read_bytes() == CONTENT


def test_the_first_download_is_held_to(
    put: Put, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(sha256=None)
    path = tmp_path / "data" / "weights" / "big.bin"
    assert main(words(tmp_path)) == 0
    path.unlink()
    site.files["/big.bin"] = CONTENT[::-1]
    assert main(words(tmp_path)) == 2
    assert f"that of the first one here was {SHA}" in capsys.readouterr().err
    assert not path.exists()
    site.files["/big.bin"] = CONTENT
    assert main(words(tmp_path)) == 0
    put("short", url=f"{site.url}/big.bin", sha256=None, bytes=len(CONTENT) + 1)
    assert main(words(tmp_path)) == 2
    assert f"expected {len(CONTENT) + 1}" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence_and_room_lets_it_go_on(
    put: Put, site: Site, tmp_path: Path
) -> None:
    """By a limit on the size of files, which stops a superuser too."""
    put()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, resource.RLIM_INFINITY))

    done = run(tmp_path, preexec_fn=limit)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "found its disk full (File too large)" in done.stderr
    assert "still missing" in done.stderr
    part = tmp_path / "data" / "weights" / "big.bin.part"
    assert part.stat().st_size == HALF
    assert main(words(tmp_path)) == 0
    assert site.asked[-1].range == f"bytes={HALF}-"


def test_a_small_disk_is_seen_before_and_while(
    put: Put, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path / "data")]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only a superuser may make a small disk")
    try:
        put()
        assert main(words(tmp_path)) == 2
        assert "1.00 MiB free and 3.00 MiB are needed: make room" in capsys.readouterr().err
        put(bytes=None)
        site.length = False
        assert main(words(tmp_path)) == 2
        errors = capsys.readouterr().err
        assert "found its disk full (No space left on device)" in errors
    finally:
        subprocess.run(["umount", str(tmp_path / "data")], check=True)


def test_a_folder_that_takes_no_files_is_one_sentence(
    put: Put, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights").write_text("no folder; no permission stops a superuser")
    assert main(words(tmp_path)) == 2
    assert "cannot write to" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["weights", f"data_dir={tmp_path / 'file' / 'data'}"]) == 2
    assert "cannot make the data folder" in capsys.readouterr().err


def run(folder: Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder), capture_output=True, text=True, cwd=ROOT, **how)


def command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "harness", "fetch", *words(folder)]


def begin(folder: Path) -> subprocess.Popen[str]:
    """Started as from a terminal: what a shell puts into the background does not hear Ctrl-C."""
    return subprocess.Popen(
        command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def wait_for(what: Callable[[], bool]) -> None:
    while not what():
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_fetch_that_is_ended_goes_on(
    put: Put, site: Site, tmp_path: Path, how: signal.Signals
) -> None:
    put()
    site.hold = HALF
    part = tmp_path / "data" / "weights" / "big.bin.part"
    ended = begin(tmp_path)
    wait_for(lambda: part.is_file() and part.stat().st_size == HALF)
    ended.send_signal(how)
    _, errors = ended.communicate()
    if how == signal.SIGINT:
        assert ended.returncode == 130
        assert "what came is kept" in errors
    site.hold = None
    assert main(words(tmp_path)) == 0
    assert site.asked[-1].range == f"bytes={HALF}-"
    assert site.asked[-1].sent == len(CONTENT) - HALF
    assert (part.parent / "big.bin").read_bytes() == CONTENT


def test_of_two_fetches_the_second_waits_and_finds_it_done(
    put: Put, site: Site, tmp_path: Path
) -> None:
    put()
    site.hold = HALF
    first = begin(tmp_path)
    wait_for(lambda: (tmp_path / "data" / "weights" / "big.bin.part").is_file())
    second = begin(tmp_path)
    assert second.stderr is not None
    assert "waiting for another fetch into" in second.stderr.readline()
    site.go.set()
    assert first.wait() == 0
    assert second.wait() == 0
    for each in (first, second):
        each.communicate()
    assert len(site.bodies) == 1


@pytest.mark.parametrize("name", ["moviegen", "storyeval"])
def test_official_prompts_from_a_copy(
    name: str, site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = SHARED / "prompts" / f"{name}.txt"
    if not shared.is_file():
        pytest.skip(f"official list not found: {shared}")
    site.files = {f"/prompts/{name}.txt": shared.read_bytes()}
    asked = ["prompts", f"suite={name},scenes", f"data_dir={tmp_path}", f"fetch.base={site.url}"]
    assert main(asked) == 0
    path = tmp_path / "prompts" / f"{name}.txt"
    assert path.read_bytes() == shared.read_bytes()
    path.write_text("a list of my own\n")
    assert main(asked) == 0
    assert path.read_bytes() == shared.read_bytes()
    assert path.with_name(f"{name}.txt.old").read_text() == "a list of my own\n"
    assert main(asked) == 0
    assert "nothing to fetch: the file is there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "choose fetch weights or fetch prompts"),
        ("weights suite=moviegen", "takes no suite=moviegen: choose among metrics="),
        ("weights metrics=psnrr", "unknown metrics psnrr, did you mean psnr"),
        ("weights model=small", "describes no file of model=small"),
        ("prompts suite=moviegenn", "unknown suite moviegenn, did you mean moviegen"),
    ],
)
def test_words_that_say_nothing(
    typed: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*typed.split(), *([f"data_dir={tmp_path}"] if typed else [])]) == 2
    assert said in capsys.readouterr().err


def test_metrics_that_are_made_of_others_bring_their_files(put: Put, tmp_path: Path) -> None:
    put(used_by=["group_one"])
    metrics = tmp_path / "own" / "metrics"
    (metrics / "group").mkdir()
    (metrics / "group" / "one.yaml").write_text("# @package metrics.group_one\n# one\nx: 1\n")
    (metrics / "mine.yaml").write_text("# all\ndefaults:\n  - group/one@_global_\n  - _self_\n")
    assert main(words(tmp_path)) == 0
    assert (tmp_path / "data" / "weights" / "big.bin").is_file()


def test_progress_has_rate_and_time_left() -> None:
    mib = 2**20
    assert progress(mib, 4 * mib, mib, 0.1) == "1.00 MiB of 4.00 MiB"
    assert progress(3 * mib, 4 * mib, 2 * mib, 4.0) == "3.00 MiB of 4.00 MiB, 0.50 MiB/s, 2 s left"
    assert progress(3 * mib, None, 2 * mib, 4.0) == "3.00 MiB of ?, 0.50 MiB/s"
