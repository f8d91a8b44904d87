"""Prompts that come encoded: which files are read, what is refused, what is recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from harness.models.text.folder_encoder import UmT5Text
from harness.models.text.stored_rows import RowsFile, write_rows
from harness.system.errors import UserError
from tests.support.tiny_wan import tiny_model, write_text

LENGTH, WIDTH = 6, 4
ROWS = {
    "a red fox": torch.arange(12.0).view(3, 4) + 1,
    "ünïcode\n“”": torch.ones(6, 4).bfloat16(),
}


@pytest.fixture(params=["safetensors", "pt"])
def file(request: Any, tmp_path: Path) -> Path:
    path = tmp_path / f"rows.{request.param}"
    if request.param == "pt":
        torch.save(ROWS, path)
    else:
        write_rows(path, ROWS)
    return path


def encoder(path: Path, **changes: Any) -> UmT5Text:
    text = UmT5Text("nowhere", LENGTH, WIDTH, embeddings=path.name, **changes)
    text.locate(path.parent)
    return text


def test_rows_are_found_by_prompt_and_padded_with_zeros(file: Path) -> None:
    text = encoder(file)
    last, first = text.encode([*ROWS][::-1])
    assert first.dtype == torch.float32 and first.shape == (LENGTH, WIDTH)
    assert torch.equal(first[:3], ROWS["a red fox"]) and not first[3:].any()
    assert torch.equal(last, torch.ones(LENGTH, WIDTH))
    assert text.weight_bytes == 0 and text.origin() is None and text.missing() == []
    assert text.examine().startswith("2 prompts")


def test_rows_of_results_record_the_file(file: Path) -> None:
    text = encoder(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert text.recorded() == f"{file.name} {sha256}"
    assert tiny_model(weights="random", text=text).origin(file.parent) == (
        f"random + {file.name} {sha256}"
    )


def test_a_prompt_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(UserError, match="rows of 2 prompts and none of 'a blue fox'"):
        encoder(file).encode(["a red fox", "a blue fox"])


def test_rows_that_do_not_fit_are_refused(file: Path) -> None:
    for length, width in ((LENGTH, WIDTH + 1), (LENGTH - 1, WIDTH)):
        with pytest.raises(UserError, match=rf"at most {length} rows of {width} a prompt"):
            RowsFile(file, length, width).prompts()


@pytest.mark.parametrize("name", ["rows.pt", "rows.safetensors"])
def test_files_of_something_else_are_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    text = encoder(path)
    assert text.missing() == [path]
    for call in (text.examine, text.recorded):
        with pytest.raises(UserError, match=r"found no embeddings at|cannot read"):
            call()
    contents: list[Any] = [[1], {"a": 1}, {1: torch.ones(2, 4)}, torch.ones(2, 4)]
    for content in contents if name.endswith("pt") else [None]:
        if content is None:
            save_file({"rows": torch.ones(2, 4)}, path)
        else:
            torch.save(content, path)
        with pytest.raises(UserError, match=r"as embeddings: give a \.pt with"):
            text.encode(["a"])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="as embeddings"):
        text.encode(["a"])


def test_what_the_encoder_made_can_be_given_back(tmp_path: Path) -> None:
    write_text(tmp_path / "parts", WIDTH * 8)
    own = UmT5Text(str(tmp_path / "parts"), 12, WIDTH * 8, dtype="float32")
    made = own.encode(["a red fox"])
    write_rows(tmp_path / "rows.safetensors", {"a red fox": made[0]})
    ready = UmT5Text("nowhere", 12, WIDTH * 8, embeddings=str(tmp_path / "rows.safetensors"))
    assert torch.equal(ready.encode(["a red fox"]), made)
