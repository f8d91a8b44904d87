"""The umT5-XXL text encoder of Wan2.1, which makes the rows that cross-attention reads."""

from __future__ import annotations

import html
import re

from harness.models.text.folder_encoder import FolderEncoder, missing_packages

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


class UmT5Text(FolderEncoder):
    """The umT5-XXL encoder of Wan2.1; see `FolderEncoder`. 10.6 GiB in bfloat16.

    Source  Wan2.1 (arXiv 2503.20314); the steps of diffusers' Wan pipeline, with 512 rows as in
            training instead of its default of 226.
    """

    what = "the umT5 text encoder"
    hub = HUB
    encoder_part, tokenizer_part = "text_encoder", "tokenizer"
    encoder_class = "UMT5EncoderModel"
    parameters = 5_680_910_336

    def __init__(
        self,
        folder: str,
        length: int = 512,
        width: int = 4096,
        weights: str = "checkpoint",
        dtype: str = "bfloat16",
        embeddings: str | None = None,
    ) -> None:
        super().__init__(folder, length, width, weights, dtype, embeddings)

    @staticmethod
    def clean(prompt: str) -> str:
        """Repair broken Unicode, unescape HTML twice and collapse white space, as Wan does."""
        try:
            import ftfy
        except ImportError as error:
            raise missing_packages(UmT5Text.what) from error
        text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
        return re.sub(r"\s+", " ", text).strip()
