"""`check model=`: a model held against its files, down to one small pass."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.checks import model
from harness.checks.verdict import Verdict
from harness.commands.check import main
from harness.models.text.stored_rows import write_rows
from tests.support.commands import command
from tests.support.tiny_wan import CHECKPOINT, DIMS, PARTS, choose, write_checkpoint, write_parts


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with everything."""
    data = tmp_path_factory.mktemp("whole")
    write_checkpoint(data)
    write_parts(data)
    return data


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "data")


class Told:
    """What a check printed, by contract."""

    def __init__(self, code: int, out: str) -> None:
        self.code = code
        lines = out.splitlines()
        self.held = [line[2:].split("  ")[0] for line in lines if line.startswith("✓")]
        self.broken = {
            line[2:].split("  ")[0]: line.split(" s  ", 1)[1]
            for line in lines
            if line.startswith("✗")
        }
        self.out = out


def judged_here(
    group: str, configs: Mapping[str, Mapping[str, Any]], limit_s: float | None
) -> Iterator[tuple[str, Verdict]]:
    """Replace the child process, which takes seconds to import what reads the files."""
    for name, config in configs.items():
        subject = model.ModelSubject(name, config["model"], config["data_dir"])
        for verdict in model.verdicts(subject):
            yield name, verdict


@pytest.fixture
def check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Any:
    def run(data: Path, *words: str, in_a_child: bool = False, **changes: Any) -> Told:
        if not in_a_child:
            monkeypatch.setattr("harness.checks.child.judged", judged_here)
        user_folder = choose(tmp_path / "own", **changes)
        code = main(["model=tiny", f"data_dir={data}", *words, "--config-dir", str(user_folder)])
        return Told(code, capsys.readouterr().out)

    return run


@pytest.mark.parametrize("in_a_child", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_model_with_all_files_holds(check: Any, whole: Path, in_a_child: bool) -> None:
    told = check(whole, in_a_child=in_a_child)
    assert told.code == 0 and not told.broken and len(told.held) == 7, told.out
    assert "69 tensors" in told.out and "ema=True" in told.out and CHECKPOINT in told.out
    assert "conf/weights describes none" in told.out


def test_without_files_each_line_says_what_to_type(check: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = check(tmp_path / "empty", source="owner/name tiny.pt")
    assert told.code == 1 and told.held == ["it can be built", "its described files are right"]
    assert "hf download owner/name tiny.pt" in told.broken["its weights have the tensors"]
    assert "text_encoder/*" in told.broken["its prompts can be encoded"]
    assert "vae/*" in told.broken["its latents can be decoded"]
    assert len(told.broken) == 3  # what follows from the weights is not tried


@pytest.mark.slow
def test_described_files_name_the_command(check: Any, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own" / "weights"
    folder.mkdir(parents=True)
    (folder / "net.yaml").write_text(
        "path: tiny.pt\nurl: https://example.org/tiny.pt\nlicence: ours\n"
        f"bytes: {(data / CHECKPOINT).stat().st_size + 1}\n"
    )
    (folder / "other.yaml").write_text("path: x.pt\nurl: https://example.org/x\n")
    from harness.system import user_folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(user_folder.EXPOSED, str(tmp_path / "own"))
        told = check(data)
        assert told.broken.keys() == {"its described files are right"}, told.out
        said = told.broken["its described files are right"]
        assert "bytes, expected" in said and "fetch weights model=tiny data_dir=" in said
        (data / CHECKPOINT).unlink()
        told = check(data)
    assert "net lacks 1 of 1 files: type" in told.broken["its described files are right"]


REST = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("extra", "shape", "torn")]


@pytest.mark.parametrize("kind", ["missing", *REST])
def test_another_checkpoint_is_named_in_one_sentence(kind: str, check: Any, data: Path) -> None:
    path = data / CHECKPOINT
    if kind == "torn":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        content = torch.load(path, weights_only=True)
        if kind == "missing":
            del content["generator_ema"]["model.head.head.bias"]
        elif kind == "extra":
            content["generator_ema"]["model.fps_embedding.weight"] = torch.zeros(2)
        else:
            content["generator_ema"]["model.head.head.bias"] = torch.zeros(5)
        torch.save(content, path)
    told = check(data)
    said = told.broken["its weights have the tensors"]
    assert told.code == 1 and len(told.broken) == 1
    assert (
        "truncated" if kind == "torn" else "fps_emb" if kind == "extra" else "head.bias"
    ) in said


def test_weights_that_are_not_numbers_break_the_pass(check: Any, data: Path) -> None:
    content = torch.load(data / CHECKPOINT, weights_only=True)
    content["generator_ema"]["model.blocks.1.ffn.2.weight"].fill_(torch.nan)
    torch.save(content, data / CHECKPOINT)
    told = check(data)
    assert told.broken.keys() == {"a small pass is finite"}
    assert "download them again" in told.broken["a small pass is finite"]


@pytest.mark.slow
def test_other_widths_of_text_and_a_checksum_that_is_demanded(check: Any, data: Path) -> None:
    told = check(data, text={"folder": PARTS, "length": 12, "width": 40}, sha256="0" * 64)
    assert told.broken.keys() == {"its prompts can be encoded", "its weights have a checksum"}
    assert "text.width" in told.broken["its prompts can be encoded"]
    assert "expected 000" in told.broken["its weights have a checksum"]


def test_an_adapter_and_ready_rows_are_examined(check: Any, data: Path) -> None:
    shutil.rmtree(data / PARTS / "text_encoder")
    write_rows(data / "rows.safetensors", {"a red fox": torch.ones(3, DIMS.text_dim)})
    stem = "base_model.model.blocks.{}.ffn.0.lora_{}.weight"
    factors = {}
    for layer in range(DIMS.num_layers):
        factors[stem.format(layer, "A")] = torch.ones(2, DIMS.dim)
        factors[stem.format(layer, "B")] = torch.ones(DIMS.ffn_dim, 2)
    torch.save({"generator_lora": factors}, data / "lora.pt")
    told = check(data, "+model.text.embeddings=rows.safetensors", lora="lora.pt", lora_scale=0.5)
    assert told.code == 0, told.out
    assert "LoRA of 2 tensors, scale 0.5" in told.out and "1 prompts in" in told.out
    assert "lora.pt" in told.out.split("its weights have a checksum")[1].splitlines()[0]


def test_the_shipped_model_holds() -> None:
    done = command("check", "model=small")
    assert done.returncode == 0
    assert done.stdout.count("✓") == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=nope"], "unknown model nope"),
        (["model=small", "twice"], "give method=<name> or model=<name>"),
        (["model=small", "model=small"], "give method=<name> or model=<name>"),
    ],
)
def test_bad_words_are_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
