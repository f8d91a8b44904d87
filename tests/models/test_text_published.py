"""Prompts against the published steps, as diffusers' own pipeline takes them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.models.text.folder_encoder import UmT5Text
from tests.support.tiny_wan import WORDS, write_text

LENGTH, WIDTH = 512, 32
WIDE = "\u3000".join(
    "".join(chr(ord(c) + 0xFEE0) for c in word) for word in ("a", "red", "fox,runs!")
)
AWKWARD = [
    "",
    " \t\n",
    "a &amp;amp; cat &lt;b&gt; &quot;red&quot;",
    "&amp;#x41; &#233; &nbsp; fox",
    WIDE,
    "cafÃ© â€œquotedâ€\x9d naïve",
    "a\u200bred\ufefffox\u2028runs\u00a0through\r\n\r\nsnow",
    "e\u0301 \ufb01sh \u2460 \U0001f98a\U0001f3fd",
    "\x1b[31mred\x1b[0m fox\x00",
    "the very long " * 200,  # 600 tokens
    "the very long " * 170 + "fox",  # with the end mark exactly 512
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    write_text(root, WIDTH)
    return root


@pytest.mark.parametrize("prompt", AWKWARD)
def test_words_are_prepared_as_published(prompt: str) -> None:
    published = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan")
    assert UmT5Text.clean(prompt) == published.prompt_clean(prompt)


def test_awkward_words_are_changed_at_all() -> None:
    assert UmT5Text.clean(AWKWARD[2]) == 'a & cat <b> "red"'
    assert UmT5Text.clean(AWKWARD[4]) == "a red fox,runs!"
    assert sum(UmT5Text.clean(prompt) != prompt for prompt in AWKWARD) > 6


def test_rows_are_those_of_the_published_pipeline(folder: Path) -> None:
    """All steps: preparation, 512 tokens of which 600 lose some, mask, zeros in the padding."""
    published = pytest.importorskip("diffusers.pipelines.wan.pipeline_wan")
    ours = UmT5Text(str(folder), length=LENGTH, width=WIDTH, dtype="float32")
    rows = ours.encode(AWKWARD)
    assert ours._loaded is not None
    tokenizer, encoder = ours._loaded
    parts: Any = SimpleNamespace(tokenizer=tokenizer, text_encoder=encoder)
    for prompt, own in zip(AWKWARD, rows, strict=True):
        with torch.no_grad():
            theirs = published.WanPipeline._get_t5_prompt_embeds(
                parts, prompt, max_sequence_length=LENGTH, device=torch.device("cpu")
            )
        torch.testing.assert_close(own, theirs[0], atol=1e-6, rtol=0)
    filled = (rows.abs().sum(2) > 0).sum(1)
    assert filled[:2].tolist() == [1, 1] and filled[-2:].tolist() == [512, 512]
    assert len(WORDS) > 10 and filled[2] < 10
