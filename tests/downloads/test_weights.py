"""What is said of files of weights, and whether those on disk are the right ones."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.commands import ls
from harness.downloads import weights
from harness.system import file_hashes, user_folder
from harness.system.errors import UserError
from tests.conftest import ROOT

CONTENT = b"weights of some network"
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(CONTENT[::-1]).hexdigest()


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder, torch's own and a folder of choices."""
    for name in ("HARNESS_DATA", "HARNESS_FETCH_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv(user_folder.EXPOSED, str(tmp_path / "own"))
    (tmp_path / "own" / "weights").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "data" / "weights").mkdir(parents=True)
    return tmp_path / "data"


@pytest.fixture
def describe(tmp_path: Path) -> Callable[..., None]:
    def write(name: str = "some", **changes: Any) -> None:
        said = {"path": "some.pth", "url": "https://example.org/some.pth", "used_by": ["lpips"]}
        text = yaml.safe_dump({**said, **changes})
        (tmp_path / "own" / "weights" / f"{name}.yaml").write_text(text)

    return write


def test_missing_names_the_file_and_the_command(describe, data: Path, tmp_path: Path) -> None:
    describe(sha256=SHA)
    place = data / "weights" / "some.pth"
    assert weights.path("some", str(data)) == place
    assert weights.digest("some", str(data)) is None
    hub = tmp_path / "torch" / "hub" / "checkpoints" / "some.pth"
    assert weights.missing(["some"], str(data)) == (
        f"there is no file {place} or {hub}: type python -m harness fetch weights metrics=lpips "
        f"data_dir={data}"
    )
    place.write_bytes(CONTENT)
    assert weights.missing(["some"], str(data)) is None
    assert weights.digest("some", str(data)) == SHA


def test_sentences_do_not_spell_out_the_home(describe, data: Path, monkeypatch) -> None:
    describe(sha256=SHA)
    monkeypatch.setenv("HOME", str(data.parent))
    sentence = weights.missing(["some"], str(data))
    assert sentence is not None and sentence.startswith(f"there is no file ~/{data.name}/weights/")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"sha256": OTHER}, f"expected {OTHER}"),
        ({"sha256_prefix": OTHER[:8]}, f"expected one that begins with {OTHER[:8]}"),
    ],
)
def test_a_wrong_file_says_both_digests(describe, data: Path, said: Any, expected: str) -> None:
    describe(**said)
    place = data / "weights" / "some.pth"
    place.write_bytes(CONTENT)
    sentence = weights.missing(["some"], str(data))
    assert sentence is not None
    assert sentence.startswith(f"{place} has SHA-256 {SHA}, {expected}: type python -m harness ")
    assert weights.digest("some", str(data)) == SHA
    place.write_bytes(CONTENT[::-1])
    assert weights.missing(["some"], str(data)) is None


def test_a_digest_is_read_once_while_the_file_is_unchanged(
    describe, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe(sha256=SHA)
    place = data / "weights" / "some.pth"
    place.write_bytes(CONTENT)
    weights.missing(["some"], str(data))
    file_hashes._remembered.cache_clear()  # as another process
    with monkeypatch.context() as patch:
        patch.setattr(file_hashes, "sha256", lambda path: pytest.fail(f"{path} is read again"))
        assert weights.digest("some", str(data)) == SHA
    os.utime(place, ns=(0, 0))
    place.write_bytes(CONTENT[::-1])
    assert weights.digest("some", str(data)) == OTHER
    file_hashes.note_of(place).write_text("{damaged")
    file_hashes._remembered.cache_clear()
    assert weights.digest("some", str(data)) == OTHER


def test_a_folder_that_takes_no_notes_is_no_error(describe, data: Path) -> None:
    describe(sha256=SHA)
    place = data / "weights" / "some.pth"
    place.write_bytes(CONTENT)
    file_hashes.note_of(place).mkdir()  # no permission would not stop a superuser
    assert weights.missing(["some"], str(data)) is None


def test_without_a_published_checksum_the_first_file_counts(describe, data: Path) -> None:
    describe(bytes=len(CONTENT))
    place = data / "weights" / "some.pth"
    place.write_bytes(CONTENT[1:])
    assert "has 22 bytes, expected 23" in str(weights.missing(["some"], str(data)))
    place.write_bytes(CONTENT)
    assert weights.missing(["some"], str(data)) is None
    place.write_bytes(CONTENT[::-1])
    os.utime(place, ns=(0, 0))
    sentence = str(weights.missing(["some"], str(data)))
    assert f"has SHA-256 {OTHER}, that of the first one here was {SHA}" in sentence
    file_hashes.note_of(place).unlink()
    file_hashes._remembered.cache_clear()
    assert weights.missing(["some"], str(data)) is None


def test_torch_hub_serves_if_its_file_is_right(describe, data: Path, tmp_path: Path) -> None:
    describe(sha256=SHA)
    hub = tmp_path / "torch" / "hub" / "checkpoints" / "some.pth"
    hub.write_bytes(CONTENT)
    assert weights.missing(["some"], str(data)) is None
    assert weights.path("some", str(data)) == hub
    hub.write_bytes(CONTENT[::-1])
    os.utime(hub, ns=(0, 0))
    assert f"{hub} has SHA-256 {OTHER}" in str(weights.missing(["some"], str(data)))
    (data / "weights" / "some.pth").write_bytes(CONTENT)  # ours counts first
    assert weights.missing(["some"], str(data)) is None


def test_several_files_are_one_entry(describe, data: Path, tmp_path: Path) -> None:
    files = [{"path": f"{n}.safetensors", "sha256": sha} for n, sha in (("a", SHA), ("b", OTHER))]
    describe(path="wan/text", url="https://example.org/wan", files=files, used_by=["psnr"])
    described = weights.read("some").files
    assert [file.urls for file in described] == [
        ("https://example.org/wan/a.safetensors",),
        ("https://example.org/wan/b.safetensors",),
    ]
    folder = data / "weights" / "wan" / "text"
    assert weights.path("some", str(data)) == folder
    folder.mkdir(parents=True)
    (folder / "a.safetensors").write_bytes(CONTENT)
    (tmp_path / "torch" / "hub" / "checkpoints" / "b.safetensors").write_bytes(CONTENT[::-1])
    sentence = str(weights.missing(["some"], str(data)))
    assert f"no file {folder / 'b.safetensors'}:" in sentence and "a.safetensors" not in sentence
    assert "fetch weights metrics=psnr" in sentence
    assert weights.digest("some", str(data)) is None
    (folder / "b.safetensors").write_bytes(CONTENT[::-1])
    assert weights.missing(["some"], str(data)) is None
    lines = f"{SHA}  wan/text/a.safetensors\n{OTHER}  wan/text/b.safetensors\n"
    assert weights.digest("some", str(data)) == hashlib.sha256(lines.encode()).hexdigest()


def test_the_command_names_what_uses_all_that_is_missing(describe, data: Path) -> None:
    describe("one", used_by=["lpips", "psnr"])
    describe("two", path="two.pth", used_by=["psnr", "ssim"])
    describe("three", path="three.pth", used_by=["ssim"])
    ending = f"data_dir={data}"
    assert f"weights metrics=psnr {ending}" in str(weights.missing(["one", "two"], str(data)))
    assert f"weights metrics=[lpips,ssim] {ending}" in str(
        weights.missing(["one", "three"], str(data))
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"path": "../elsewhere"}, "leaves the folder weights"),
        ({"path": None}, "names no path"),
        ({"shasum": SHA}, "has shasum: choose among path, url"),
        ({"sha256_prefix": 12345678}, "put quotes"),
        ({"bytes": "343 MB"}, "give the exact size"),
        ({"used_by": "lpips"}, "is no list: give metrics"),
        ({"files": [{"name": "a"}]}, "names no path"),
        ({"files": [{"path": "a"}], "sha256": SHA}, "has sha256: choose among"),
    ],
)
def test_a_description_that_cannot_be_used_says_why(describe, changes: Any, said: str) -> None:
    describe(**changes)
    with pytest.raises(UserError, match=said):
        weights.read("some")


def test_an_unknown_name_and_broken_yaml_are_sentences(describe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is called none: type python -m harness ls weights"):
        weights.missing(["none"], None)
    (tmp_path / "own" / "weights" / "some.yaml").write_text("a: [")
    with pytest.raises(UserError, match="cannot be read"):
        weights.read("some")


@pytest.mark.parametrize("name", sorted(weights.entries(Path(os.devnull))))
def test_shipped_descriptions(name: str) -> None:
    """Every file has an address, a licence and users that can be named on a command line."""
    entry = weights.entries()[name]
    assert entry.licence != "unknown"
    for file in entry.files:
        assert file.urls and all(url.startswith("https://") for url in file.urls)
        assert file.sha256 is None or len(file.sha256) == 64
    for use in entry.used_by:
        flat = [use, use.replace("_", "/", 1)]
        groups = [ROOT / "conf" / group for group in ("metrics", "model")]
        assert any((group / f"{each}.yaml").is_file() for group in groups for each in flat), use


def test_ls_weights(describe, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe("a", path="a.pth", sha256=SHA, licence="MIT")
    describe("b", path="b.pth", sha256=SHA, bytes=2**30)
    describe("c", path="c.pth", sha256=SHA)
    describe("d", path="d.pth")
    for name, content in (("a", CONTENT), ("c", b"else"), ("d", CONTENT)):
        (data / "weights" / f"{name}.pth").write_bytes(content)
    assert ls.main(["weights", f"data_dir={data}"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert f" {data}/weights/a.pth " in lines["a"] and lines["a"].endswith(" MIT")
    assert " there  " in lines["a"] and " 23 B " in lines["a"] and " lpips " in lines["a"]
    assert " missing " in lines["b"] and " 1.00 GiB " in lines["b"]
    assert " wrong checksum " in lines["c"]
    assert " there (no published checksum) " in lines["d"]
    assert "alexnet" in lines
    assert ls.main(["weights", "data_dir=/nowhere"]) == 2
    assert "/nowhere does not exist" in capsys.readouterr().err


def test_asking_what_is_missing_imports_nothing_heavy(tmp_path: Path) -> None:
    asked = (
        "import sys; from harness.downloads import weights; weights.missing(['alexnet'], None);"
        "print({'torch', 'numpy', 'hydra', 'pandas', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr
