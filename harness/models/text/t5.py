"""The T5 v1.1 XXL text encoder of MAGI-1."""

from __future__ import annotations

from harness.models.text.captions import clean_caption
from harness.models.text.folder_encoder import FolderEncoder, missing_packages


class T5Text(FolderEncoder):
    """The T5 v1.1 XXL encoder of MAGI-1; see `FolderEncoder`. 17.7 GiB in float32.

    Source  MAGI-1 (arXiv 2505.13211), its released code: float32, 800 rows, prompts cleaned twice.
    """

    what = "the T5 text encoder"
    hub = "sand-ai/MAGI-1"
    encoder_part = tokenizer_part = "ckpt/t5/t5-v1_1-xxl"
    encoder_class = "T5EncoderModel"
    parameters = 4_762_310_656

    def __init__(
        self,
        folder: str,
        length: int = 800,
        width: int = 4096,
        weights: str = "checkpoint",
        dtype: str = "float32",
        embeddings: str | None = None,
    ) -> None:
        super().__init__(folder, length, width, weights, dtype, embeddings)

    @staticmethod
    def clean(prompt: str) -> str:
        """Clean a prompt twice, as MAGI-1 does."""
        try:
            return clean_caption(clean_caption(prompt))
        except ImportError as error:
            raise missing_packages(T5Text.what) from error
