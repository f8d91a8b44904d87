"""The text side of MAGI-1: T5 on a tiny model of the same class, and the rows of its chunks."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.models.text.captions import clean_caption
from harness.models.text.folder_encoder import T5Text
from harness.models.text.special_tokens import SpecialTokens, null_rows, prompt_rows
from harness.system.errors import UserError
from tests.support.tiny_wan import write_encoder

LENGTH, WIDTH = 12, 32
FLAGGED = ("c_twelve_steps", "h_prefix_video", "h_prefix_cfg")
PLAIN = ("d_cfg", "h_prefix_image")
AWKWARD = [
    "A Red Fox, runs/jumps.Now -- see https://example.com/a-b?x=1 and www.foo.org/bar_baz",
    "mail bob@site.com or @bob_the.builder about www:foo",
    "<person> on <b>a hill</b> &amp; a &lt;tree&gt;, a <b unclosed, 3 < 4",
    "%41%20caf%C3%A9+tea, cafÃ© \u201cquoted\u201d \u2018single\u2019 ``tick``",
    "photo.jpg 12345678 #12 #1234 #123456 ab123 ab12cd 12ab34 j2d1a2a 1920x1080 page 12",
    "free shipping worldwide, download free, click for more png images",
    "this_is-my-cute-cat_video ...wow... . end",
    '"whole thing"',
    "'_-start and end+:",
    ".hidden",
    "192.168.0.1 at 10:15 ",
    "\u9f8d dragon \u4e00",
    "&quot;hello&quot; a\\nb ***SALE*** (50%) [now] {x} |y| ~z~",
    "",
    " \t\n",
]
PIECES = [*"aB1 .,:;-_'\"/\\#@&%+()<>x", "http://", "www:", ".com", "<b>", "&amp;", "123", "png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of the hub's, with encoder and tokenizer in one folder."""
    root = tmp_path_factory.mktemp("magi")
    inside = root / T5Text.encoder_part
    write_encoder("T5", inside, inside, WIDTH)
    return root


def tiny(folder: Path, **changes: Any) -> T5Text:
    settings: dict[str, Any] = {"length": LENGTH, "width": WIDTH} | changes
    return T5Text(str(folder), **settings)


def test_rows_are_those_of_the_encoder_under_its_mask(folder: Path) -> None:
    encoder = tiny(folder)
    rows = encoder.encode(["a red fox", ""])
    assert rows.shape == (2, LENGTH, WIDTH) and rows.dtype == torch.float32
    assert [int(own.any(1).sum()) for own in rows] == [4, 1]  # with the end mark
    assert encoder._loaded is not None
    tokenizer, model = encoder._loaded
    assert model.dtype == torch.float32
    with torch.no_grad():
        alone = model(**tokenizer(["a red fox"], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(rows[0, :4], alone[0], atol=1e-5, rtol=0)


def test_prompts_are_cleaned_twice(folder: Path) -> None:
    found = tiny(folder).encode(["A RED &lt;b&gt; fox", "a red fox"])
    assert torch.equal(found[0], found[1])
    assert clean_caption("a red &lt;b&gt; fox") == "a red <b> fox"


def test_the_folder_is_examined_without_reading_weights_twice(folder: Path, tmp_path: Path) -> None:
    encoder = tiny(folder)
    assert encoder.missing() == [] and "tensors in files of" in encoder.examine()
    assert (encoder.origin() or "").count(",") == 3
    assert tiny(tmp_path).missing() == [tmp_path / T5Text.encoder_part]
    with pytest.raises(UserError, match=r"hf download sand-ai/MAGI-1 --include 'ckpt/t5/t5-v1_1-"):
        tiny(tmp_path).encode(["a fox"])


def test_weights_in_the_older_format_are_found(folder: Path, tmp_path: Path) -> None:
    inside = tmp_path / T5Text.encoder_part
    inside.parent.mkdir(parents=True)
    inside.symlink_to(folder / T5Text.encoder_part)
    expected = tiny(tmp_path).encode(["a fox"])
    inside.unlink()
    inside.mkdir()
    for file in (folder / T5Text.encoder_part).iterdir():
        if file.suffix == ".safetensors":
            torch.save(load_file(file), inside / "pytorch_model.bin")
        else:
            (inside / file.name).symlink_to(file)
    assert tiny(tmp_path).missing() == [] and "tensors" in tiny(tmp_path).examine()
    assert torch.equal(tiny(tmp_path).encode(["a fox"]), expected)


def test_random_rows_need_no_files(tmp_path: Path) -> None:
    rows = tiny(tmp_path, weights="random").encode(["a fox"])
    assert rows.shape == (1, LENGTH, WIDTH) and rows[0, :2].any() and not rows[0, 2:].any()
    assert tiny(tmp_path, weights="random").weight_bytes == 0


def test_true_size() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
    )
    with torch.device("meta"):
        encoder = transformers.T5EncoderModel(config)
    assert sum(x.numel() for x in encoder.parameters()) == T5Text.parameters
    assert T5Text("").weight_bytes == 4 * T5Text.parameters


def test_captions_are_cleaned_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in diffusers, whose HTML parser is not here: tags are removed by ours in both."""
    from harness.models.text import captions

    module = pytest.importorskip("diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha")
    monkeypatch.setattr(
        module,
        "BeautifulSoup",
        lambda text, features: SimpleNamespace(text=captions.without_tags(text)),
        raising=False,
    )
    pipeline = module.PixArtAlphaPipeline
    rules = SimpleNamespace(bad_punct_regex=pipeline.bad_punct_regex)
    draw = random.Random(0)
    made_up = ["".join(draw.choices(PIECES, k=draw.randint(1, 25))) for _ in range(300)]
    for prompt in (*AWKWARD, *made_up):
        assert clean_caption(prompt) == pipeline._clean_caption(rules, prompt), prompt


def test_captions_are_changed_at_all() -> None:
    assert clean_caption(AWKWARD[0]) == "a red fox, runs jumps. now - see ?x=1 and"
    assert clean_caption(AWKWARD[2]) == "person on a hill a <tree>, a <b unclosed, 3 < 4"
    assert clean_caption(AWKWARD[7]) == "whole thing"


def special_of(inputs: dict[str, Any]) -> SpecialTokens:
    return SpecialTokens.of({name: x.numpy() for name, x in inputs["special_tokens"].items()})


@pytest.mark.parametrize("name", FLAGGED)
def test_rows_of_chunks_are_those_of_the_original(golden: Any, name: str) -> None:
    recording = golden(f"magi/{name}.pt")
    config, inputs = recording["config"], recording["inputs"]
    kinds = [flag.removeprefix("PAD_").lower() for flag in config["flags"]]
    given = inputs["prefix"].shape[2] // config["chunk_width"] if "prefix" in inputs else 0
    for chunk in range(config["chunks"]):
        mask, expected = inputs["y_mask"][0, chunk], inputs["y_rows"][0, chunk]
        if chunk < given:  # a chunk of the prefix has no text
            assert not mask.any()
            continue
        num_chunks = config["chunks"] - given
        text = inputs["text"][0, 0], inputs["text_mask"][0]
        rows = prompt_rows(*text, kinds, special_of(inputs), chunk - given, num_chunks)
        assert len(rows) == mask.sum()
        assert torch.equal(rows, expected[: len(rows)])


@pytest.mark.parametrize("name", [*FLAGGED, *PLAIN])
def test_null_rows_are_those_of_the_original(golden: Any, name: str) -> None:
    recording = golden(f"magi/{name}.pt")
    inputs = recording["inputs"]
    rows = null_rows(recording["weights"]["y_embedder.null_caption_embedding"])
    assert (inputs["y_mask"][1].sum(1) == len(rows)).all()
    assert all(torch.equal(rows, each[: len(rows)]) for each in inputs["y_rows"][1])


def made_up(width: int = 2) -> SpecialTokens:
    """Tokens whose rows hold their own number; those of captions and logos are negative."""
    other = torch.arange(100.0)[:, None].expand(-1, width)
    return SpecialTokens(torch.full((1, width), -1.0), torch.full((1, width), -2.0), other)


def numbers(rows: Tensor) -> list[int]:
    return [int(x) for x in rows[:, 0]]


def test_special_tokens_stand_in_the_order_of_the_original() -> None:
    text, mask = torch.full((4, 2), 50.0), torch.tensor([1, 1, 0, 0])
    every = ["duration", "two_d_anime", "three_d_model", "hq", "borderness", "dynamic", "static"]
    assert numbers(prompt_rows(text, mask, [], made_up(), 0, 1)) == [50, 50]
    assert numbers(prompt_rows(text, mask, ["duration", "hq"], made_up(), 0, 3)) == [9, 1, 50, 50]
    long = torch.full((9, 2), 50.0)
    found = prompt_rows(long, torch.ones(9), every[::-1], made_up(), 0, 20)
    assert numbers(found) == [14, 16, 15, 1, 4, 3, 2, 50, 50]  # cut to the length of the text
    last = [numbers(prompt_rows(text, mask, ["duration"], made_up(), i, 10))[0] for i in range(10)]
    assert last == [14, 14, 14, 13, 12, 11, 10, 9, 8, 7]


def test_an_empty_prompt_has_no_rows() -> None:
    assert prompt_rows(torch.zeros(4, 2), torch.zeros(4), [], made_up(), 0, 1).shape == (0, 2)


def test_special_tokens_are_rounded_to_float16(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    arrays = {"caption_token": (1, 4), "logo_token": (1, 4), "other_tokens": (100, 4)}
    values = {name: draw.normal(size=shape) for name, shape in arrays.items()}
    np.savez(tmp_path / "special.npz", **values)
    found = SpecialTokens.read(tmp_path / "special.npz")
    expected = torch.from_numpy(values["other_tokens"]).half()
    assert found.other.dtype == torch.float32
    assert torch.equal(found.other.half(), expected) and found.caption.shape == (1, 4)


@pytest.mark.parametrize("damage", ["missing", "torn", "other arrays"])
def test_damaged_special_tokens_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "special.npz"
    if damage == "torn":
        path.write_bytes(b"PK\x03\x04 torn")
    elif damage == "other arrays":
        np.savez(path, caption_token=np.zeros((1, 4)))
    wanted = "curl -L -o" if damage == "missing" else "download it again"
    with pytest.raises(UserError, match=wanted):
        SpecialTokens.read(path)
