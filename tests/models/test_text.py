"""Text encoders: fixed random words, and umT5 on a tiny model of the same class."""

from __future__ import annotations

import gc
import shutil
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.models.text.folder_encoder import WAN_HUB, UmT5Text
from harness.models.text.hashed_words import HashText
from harness.system.errors import UserError
from tests.support.tiny_wan import write_text

LENGTH, WIDTH = 12, 32
RECORDED = [
    [-1.00068, -0.47718, -0.39382, 0.83199],
    [-0.61315, -0.93351, -0.1385, 0.57956],
    [1.35023, 0.60621, -0.85646, -0.46975],
    [1.2665, -0.94227, 0.39861, -0.16477],
]


def test_hash_text_shapes_and_padding() -> None:
    rows = HashText(length=6, width=16).encode(["A red fox.", "", "one two three four five six 7"])
    assert rows.shape == (3, 6, 16) and rows.dtype == torch.float32
    assert rows[0, :4].abs().sum(1).min() > 0 and not rows[0, 4:].any()
    assert not rows[1].any()
    assert rows[2].abs().sum(1).min() > 0
    assert HashText(6, 16).encode([]).shape == (0, 6, 16)


def test_hash_text_is_the_same_everywhere() -> None:
    """Numbers recorded once: another process, machine or hash seed must find them again."""
    rows = HashText(length=4, width=16, seed=3).encode(["A red fox, red"])[0]
    assert torch.allclose(rows[:, ::5], torch.tensor(RECORDED), atol=2e-5)


def test_hash_text_knows_words_order_case_and_seed() -> None:
    encoder = HashText(length=8, width=64)
    one, two, upper, swapped = encoder.encode(
        ["a fox", "a fox on ice", "A FOX", "fox a"],
    )
    assert torch.equal(one[:2], two[:2])
    assert torch.equal(one, upper)
    assert not torch.allclose(one.sum(0), swapped.sum(0) + 1) and not torch.equal(one, swapped)
    # The same word in another place differs by its position only, which is small.
    shift = (one[1] - swapped[0]).norm() / one[1].norm()
    assert 0.01 < shift < 0.5
    assert not torch.allclose(HashText(8, 64, seed=1).encode(["a fox"])[0], one)


def test_hash_text_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    HashText(4, 8).encode(["a fox"])
    assert torch.equal(before, torch.random.get_rng_state())


def test_hash_text_refuses_an_empty_shape() -> None:
    with pytest.raises(UserError, match="at least 1"):
        HashText(length=0, width=8)


@pytest.fixture(scope="module")
def wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout of the hub's, with a tiny random umT5 and a word tokenizer."""
    root = tmp_path_factory.mktemp("wan")
    write_text(root, WIDTH)
    return root


def tiny(folder: Path, **changes: Any) -> UmT5Text:
    settings: dict[str, Any] = {"length": LENGTH, "width": WIDTH, "dtype": "float32"} | changes
    return UmT5Text(str(folder), **settings)


def test_umt5_pads_with_zeros_and_masks_the_padding(wan_folder: Path) -> None:
    encoder = tiny(wan_folder)
    rows = encoder.encode(["a red fox", "the dog"])
    assert rows.shape == (2, LENGTH, WIDTH) and rows.dtype == torch.float32
    assert not rows[0, 4:].any() and not rows[1, 3:].any()
    assert rows[0, :4].abs().sum(1).min() > 0  # three words and the end mark
    assert encoder._loaded is not None
    tokenizer, model = encoder._loaded
    with torch.no_grad():
        alone = model(**tokenizer(["a red fox"], return_tensors="pt")).last_hidden_state
    assert torch.allclose(rows[0, :4], alone[0], atol=1e-4)
    assert torch.equal(encoder.encode(["the dog"])[0], rows[1])  # company does not matter


@pytest.mark.parametrize("num_words", [2, 3, 4, 40])
def test_a_prompt_that_is_cut_is_said_with_numbers(
    wan_folder: Path, caplog: pytest.LogCaptureFixture, num_words: int
) -> None:
    encoder = UmT5Text(str(wan_folder), length=3, width=WIDTH, dtype="float32")
    encoder.encode([" ".join(["fox"] * num_words)])
    said = caplog.text
    num_tokens = len(encoder._loaded[0]([" ".join(["fox"] * num_words)]).input_ids[0])
    cut = f"has {num_tokens} tokens and the text encoder takes 3: its last {num_tokens - 3} are"
    assert (cut in said) == (num_tokens > 3)


def test_umt5_truncates_to_length(wan_folder: Path) -> None:
    rows = tiny(wan_folder).encode(["fox " * 50])
    assert rows.shape == (1, LENGTH, WIDTH) and rows.abs().sum(2).min() > 0


def test_umt5_empty_prompt_is_the_end_mark(wan_folder: Path) -> None:
    rows = tiny(wan_folder).encode([""])
    assert rows[0, 0].any() and not rows[0, 1:].any()


def test_umt5_cleans_prompts(wan_folder: Path) -> None:
    one, two = tiny(wan_folder).encode(["a &amp;amp; cat", " a  &\n cat "])
    assert torch.equal(one, two) and one.any()


def test_clean() -> None:
    assert UmT5Text.clean("  a\u00a0 fox\n\tin\r\n snow ") == "a fox in snow"
    assert UmT5Text.clean("<i>&amp;lt;") == "<i><"  # ftfy leaves text with tags to the two passes
    assert UmT5Text.clean("&amp;lt;b&amp;gt; &quot;") == '<b> "'
    assert UmT5Text.clean("cafÃ© “quoted”") == 'café "quoted"'


def test_umt5_in_bfloat16_is_close_and_comes_as_float32(wan_folder: Path) -> None:
    exact = tiny(wan_folder).encode(["a red fox"])
    rounded = tiny(wan_folder, dtype="bfloat16").encode(["a red fox"])
    assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_umt5_loads_late_and_frees(wan_folder: Path) -> None:
    encoder = tiny(wan_folder)
    assert encoder._loaded is None
    first = encoder.encode(["a fox"])
    assert encoder._loaded is not None
    model = weakref.ref(encoder._loaded[1])
    encoder.close()
    gc.collect()
    assert model() is None
    assert torch.equal(encoder.encode(["a fox"]), first)


def test_umt5_knows_its_files_wherever_they_lie(wan_folder: Path, tmp_path: Path) -> None:
    origin = tiny(wan_folder).origin()
    copy = shutil.copytree(wan_folder, tmp_path / "elsewhere")
    assert origin and tiny(copy).origin() == origin
    for file in ("tokenizer/tokenizer.json", "text_encoder/config.json"):
        content = (copy / file).read_text()
        (copy / file).write_text(content + "\n")
        assert tiny(copy).origin() != origin
        (copy / file).write_text(content)
    weights = copy / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    save_file({name: x + 1 for name, x in state.items()}, weights, metadata={"format": "pt"})
    assert tiny(copy).origin() != origin
    assert tiny(copy, weights="random").origin() is None


def test_umt5_without_files_or_packages_has_no_origin(
    wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=f"hf download {WAN_HUB}"):
        tiny(tmp_path).origin()
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(UserError, match=r"pip install 'video-kv-bench\[wan\]'"):
        tiny(wan_folder).origin()


def test_umt5_ties_the_embedding_itself(wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some releases leave the encoder's embedding at zero when only `shared` is in the file."""
    from transformers import UMT5EncoderModel

    expected = tiny(wan_folder).encode(["a fox"])
    original = UMT5EncoderModel.from_pretrained

    def untied(*args: Any, **kwargs: Any) -> Any:
        model, report = original(*args, **kwargs)
        model.encoder.embed_tokens = torch.nn.Embedding(model.config.vocab_size, WIDTH)
        return model, {**report, "missing_keys": {"encoder.embed_tokens.weight"}}

    monkeypatch.setattr(UMT5EncoderModel, "from_pretrained", untied)
    assert torch.equal(tiny(wan_folder).encode(["a fox"]), expected)


def test_umt5_missing_folder_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        tiny(tmp_path).encode(["a fox"])
    message = str(caught.value)
    assert str(tmp_path) in message and f"hf download {WAN_HUB}" in message
    assert "text_encoder" in message and "tokenizer" in message


@pytest.mark.parametrize("package", ["transformers", "ftfy"])
def test_umt5_missing_package(
    package: str, wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"pip install 'video-kv-bench\[wan\]'"):
        tiny(wan_folder).encode(["a fox"])


def test_umt5_refuses_other_widths_and_dtypes(wan_folder: Path) -> None:
    with pytest.raises(UserError, match=r"text\.width"):
        tiny(wan_folder, width=WIDTH + 1).encode(["a fox"])
    with pytest.raises(UserError, match="choose bfloat16 or float32"):
        tiny(wan_folder, dtype="int8")


@pytest.mark.parametrize("damage", ["lacking", "torn", "empty"])
def test_umt5_damaged_weights(damage: str, wan_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer").symlink_to(wan_folder / "tokenizer")
    (tmp_path / "text_encoder").mkdir()
    if damage != "empty":
        config = (wan_folder / "text_encoder" / "config.json").read_text()
        (tmp_path / "text_encoder" / "config.json").write_text(config)
        weights = wan_folder / "text_encoder" / "model.safetensors"
        copy = tmp_path / "text_encoder" / "model.safetensors"
        if damage == "torn":
            copy.write_bytes(weights.read_bytes()[:-1000])
        else:
            state = load_file(weights)
            del state["encoder.final_layer_norm.weight"]
            save_file(state, copy, metadata={"format": "pt"})
    with pytest.raises(UserError, match="download it again"):
        tiny(tmp_path).encode(["a fox"])
