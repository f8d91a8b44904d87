"""What `fetch weights model=` fetches: the files that the preset itself reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.commands import ls
from harness.commands.fetch import main
from harness.commands.fetch_list import Place, wanted_weights
from harness.system.errors import UserError
from tests.support.tiny_wan import choose

PARTS_MADE_UP = {"folder": "weights/Wan2.1-T2V-1.3B-Diffusers", "weights": "random"}
TEXT = {"folder": "weights/Wan2.1-T2V-1.3B-Diffusers"}


def names(model: str, own: Path | None) -> set[str]:
    found = wanted_weights([], [model], Place(None, Path("/data"), None, own))
    return {"/".join(each.name.split("/")[:2]) for each in found}  # entries, without their files


def describe(own: Path, name: str, path: str) -> None:
    (own / "weights").mkdir(parents=True, exist_ok=True)
    (own / "weights" / f"{name}.yaml").write_text(
        f"path: {path}\nurl: http://127.0.0.1:9/{path}\nlicence: ours\nbytes: 5\n"
    )


def test_the_published_model_brings_its_encoder_and_decoder() -> None:
    assert names("self_forcing", None) == {
        "self_forcing", "wan/text_encoder", "wan/tokenizer", "wan/vae",
    }  # fmt: skip


def test_a_preset_made_from_another_fetches_what_it_reads_itself(tmp_path: Path) -> None:
    own = choose(
        tmp_path, text=TEXT, checkpoint="weights/mine/base.pt", lora="weights/mine/lora.pt"
    )
    describe(own, "mine_base", "mine/base.pt")
    describe(own, "mine_lora", "mine/lora.pt")
    describe(own, "mine_other", "mine/other.pt")
    assert names("tiny", own) == {"mine_base", "mine_lora", "wan/text_encoder", "wan/tokenizer"} | {
        "wan/vae"
    }  # in the folder of its text encoder, which the decoder shares


def test_a_preset_on_published_parts_needs_no_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A checkpoint of one's own, text encoder and VAE of the published ones; `ls` says the same."""
    own = choose(tmp_path, text=TEXT, decoder=TEXT, checkpoint="weights/mine/base.pt")
    assert names("tiny", own) == {"wan/text_encoder", "wan/tokenizer", "wan/vae"}
    (tmp_path / "data").mkdir()
    asked = ["weights", f"data_dir={tmp_path / 'data'}", "--config-dir", str(own)]
    assert ls.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    said = {line.split()[0].rpartition("/")[0] for line in lines if ",tiny " in f"{line} "}
    assert said == {"wan/text_encoder", "wan/tokenizer", "wan/vae"}


def test_only_what_is_read_is_fetched(tmp_path: Path) -> None:
    """Made-up parts bring nothing; an absolute place is found."""
    own = choose(tmp_path, text={**TEXT, "weights": "random"}, decoder=PARTS_MADE_UP)
    with pytest.raises(UserError, match="describes no file of model=tiny"):
        names("tiny", own)
    choose(tmp_path, text={**TEXT, "weights": "random"}, decoder=PARTS_MADE_UP,
           checkpoint="/data/weights/mine/base.pt")  # fmt: skip
    describe(own, "mine_base", "mine/base.pt")
    describe(own, "mine_other", "mine/base.pt2")
    assert names("tiny", own) == {"mine_base"}


def test_disk_and_licence_are_said_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = choose(tmp_path / "own", checkpoint="weights/mine/base.pt")
    describe(own, "mine_base", "mine/base.pt")
    base = tmp_path / "copy" / "weights" / "mine"
    base.mkdir(parents=True)
    (base / "base.pt").write_bytes(b"12345")
    words = ["weights", "model=tiny", f"data_dir={tmp_path / 'data'}"]
    words += [f"fetch.base={tmp_path / 'copy'}", "--config-dir", str(own)]
    assert main(words) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert "1 of 1 files, 5 B" in first and "free)" in first
    assert "mine_base" in second and second.endswith("ours")
    assert (tmp_path / "data" / "weights" / "mine" / "base.pt").read_bytes() == b"12345"
    assert main(words) == 0
    assert "nothing to fetch" in capsys.readouterr().out
