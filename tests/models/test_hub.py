"""Files in the cache of the hub's client: found by address or by source, never downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.models.checkpoints.locate import located
from harness.models.preset import VideoModel
from harness.system.errors import UserError
from tests.support.tiny_wan import tiny_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot as the client leaves it: `owner/name` with `folder/file.pt`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "cache" / "models--owner--name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    (snapshot / "folder").mkdir(parents=True)
    (snapshot / "folder" / "file.pt").write_bytes(b"x")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    return snapshot


def test_addresses_of_the_hub_are_found_in_its_cache(cache: Path, tmp_path: Path) -> None:
    assert located(tmp_path, "hf://owner/name/folder/file.pt") == cache / "folder" / "file.pt"
    assert located(tmp_path, "hf://owner/name/folder") == cache / "folder"
    assert located(tmp_path, "hf://owner/name").resolve() == cache.resolve()


def test_what_the_cache_lacks_is_one_sentence(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"type `hf download owner/name folder/other\.pt`, or"):
        located(tmp_path, "hf://owner/name/folder/other.pt")
    with pytest.raises(UserError, match="type `hf download owner/other`, or"):
        located(tmp_path, "hf://owner/other")
    with pytest.raises(UserError, match="names no repository"):
        located(tmp_path, "hf://owner")


def test_its_own_place_comes_first_and_the_source_second(cache: Path, tmp_path: Path) -> None:
    source = "owner/name folder/file.pt"
    assert located(tmp_path, "mine.pt", source) == cache / "folder" / "file.pt"
    assert located(tmp_path, "mine.pt") == tmp_path / "mine.pt"
    assert located(tmp_path, "mine.pt", "owner/name other.pt") == tmp_path / "mine.pt"
    assert located(tmp_path, "mine.pt", "owner/other file.pt") == tmp_path / "mine.pt"
    (tmp_path / "mine.pt").write_bytes(b"y")
    assert located(tmp_path, "mine.pt", source) == tmp_path / "mine.pt"


def test_a_model_takes_its_checkpoint_from_there(cache: Path, tmp_path: Path) -> None:
    model: VideoModel = tiny_model(checkpoint="hf://owner/name/folder/file.pt")
    assert model.path(tmp_path) == cache / "folder" / "file.pt"
    model = tiny_model(checkpoint="a.pt", lora="b.pt", lora_source="owner/name folder/file.pt")
    adapter = model.adapter(tmp_path)
    assert adapter is not None and adapter.path == cache / "folder" / "file.pt"
