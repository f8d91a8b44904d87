"""Text encoders: prompts to the rows that cross-attention reads.

Prompts are encoded once, before the videos, and the encoder is freed: 4 MB of rows a prompt stand
against 11 GB of encoder. Both encoders are cheap to build; nothing is loaded before `encode`.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from harness.errors import UserError
from harness.models.load import checkpoint_digest

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
_PARTS = ("text_encoder", "tokenizer")  # folders below the encoder's own
_PACKAGES = ("transformers", "tokenizers", "ftfy")  # what a prompt passes through
_PARAMETERS = 5_680_910_336  # of umT5-XXL's encoder, one embedding counted
_POSITION_SCALE = 0.1  # of a word's own spread: order counts, words count more


@dataclass(frozen=True)
class HashText:
    """Words as fixed random vectors: an encoder without weights, for models without a trained one.

    Each lower-cased word or punctuation mark is a Gaussian vector of its own, the same in every
    process and on every machine (up to the last rounding of its CPU), plus a small sinusoid of its
    position. Words past `length` are left out; rows past the prompt are exactly zero.

    Source  ours.
    Shapes  num_prompts strings -> [num_prompts, length, width] float32 on the CPU.
    Raises  UserError: length or width below 1.
    """

    length: int
    width: int
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty shape."""
        if min(self.length, self.width) < 1:
            raise UserError(f"text of {self.length} rows of {self.width}: choose both at least 1")

    @property
    def weight_bytes(self) -> int:
        """No weights."""
        return 0

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows of the prompts [num_prompts, length, width]; an empty prompt is all zeros."""
        rows = torch.zeros(len(prompts), self.length, self.width)
        for own, prompt in zip(rows, prompts, strict=True):
            words = re.findall(r"\w+|[^\w\s]", prompt.lower())[: self.length]
            for position, word in enumerate(words):
                own[position] = self._vector(word) + self._place(position)
        return rows

    def locate(self, root: Path) -> None:
        """No files; encoders share this call."""

    def to(self, device: torch.device) -> None:
        """Nothing to move; encoders share this call."""

    def close(self) -> None:
        """Nothing is held; encoders share this call."""

    def _vector(self, word: str) -> Tensor:
        # hashlib, since Python's own hash of a string differs from process to process.
        digest = hashlib.sha256(f"{self.seed} {word}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.randn(self.width, generator=generator)

    def _place(self, position: int) -> Tensor:
        half = (self.width + 1) // 2
        angles = position * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        waves = torch.cat([angles.sin(), angles.cos()])[: self.width]
        return _POSITION_SCALE * waves.float()


class UmT5Text:
    """The umT5-XXL encoder of Wan2.1, from a folder in the layout of `HUB`.

    Prompts are repaired, padded to `length`, encoded under their mask one at a time (so that a
    prompt's rows do not depend on its company), and rows past the prompt are set to zero.
    `weights="random"` reads no files: rows of the true shape come from `HashText`, for systems
    measurements whose values mean nothing anyway.

    Source  Wan2.1 (arXiv 2503.20314); the steps of diffusers' Wan pipeline, with 512 rows as in
            training instead of its default of 226.
    Shapes  num_prompts strings -> [num_prompts, length, width] float32 on the CPU.
    Raises  UserError, from `encode`: packages, folder or weights missing; another width.
    """

    def __init__(
        self,
        folder: str,
        length: int = 512,
        width: int = 4096,
        weights: str = "checkpoint",
        dtype: str = "bfloat16",
    ) -> None:
        """Remember the settings; `dtype` is bfloat16 (10.6 GiB) or float32 (twice as much)."""
        if dtype not in ("bfloat16", "float32"):
            raise UserError(f"text.dtype={dtype}: choose bfloat16 or float32")
        if weights not in ("checkpoint", "random"):
            raise UserError(f"text.weights={weights}: choose checkpoint or random")
        self.folder, self.length, self.width = folder, length, width
        self._random = HashText(length, width) if weights == "random" else None
        self.device, self.dtype = torch.device("cpu"), dtype
        self._loaded: tuple[Any, Any] | None = None

    def locate(self, root: Path) -> None:
        """Read the folder below `root` from now on, unless it is absolute."""
        self.folder = str(root / self.folder)

    def to(self, device: torch.device) -> None:
        """Encode on this device; what is loaded already is dropped."""
        self.close()
        self.device = device

    @property
    def weight_bytes(self) -> int:
        """Bytes of the encoder while it is loaded."""
        itemsize: int = getattr(torch, self.dtype).itemsize
        return 0 if self._random is not None else _PARAMETERS * itemsize

    def origin(self) -> str | None:
        """Digests of weights and tokenizer, and the packages that use them; None if random.

        Of the weights as `checkpoint_digest` has it, of the smaller files every byte.

        Raises  UserError: packages or files missing.
        """
        if self._random is not None:
            return None
        encoder, tokenizer = (_part(Path(self.folder), part) for part in _PARTS)
        digest = hashlib.sha256(checkpoint_digest(encoder).encode())
        for file in [encoder / "config.json", *sorted(tokenizer.iterdir())]:
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
        try:
            versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
        except importlib.metadata.PackageNotFoundError as error:
            raise missing_packages("the umT5 text encoder") from error
        return ", ".join([digest.hexdigest(), *versions])

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows of the prompts [num_prompts, length, width]; loads the encoder the first time."""
        if self._random is not None:
            return self._random.encode(prompts)
        rows = torch.zeros(len(prompts), self.length, self.width)
        for own, prompt in zip(rows, prompts, strict=True):
            hidden = self._encode_one(clean(prompt))
            own[: len(hidden)] = hidden
        return rows

    def close(self) -> None:
        """Free the encoder; the next `encode` loads it again."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> Tensor:
        """Rows of the prompt's own tokens [num_tokens, width] float32."""
        self._loaded = self._loaded or self._load()
        tokenizer, encoder = self._loaded
        tokens = tokenizer(
            [prompt],
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)
        hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
        own: Tensor = hidden[: int(tokens.attention_mask.sum())]
        return own.float().cpu()

    def _load(self) -> tuple[Any, Any]:
        try:
            from transformers import AutoTokenizer, UMT5EncoderModel
        except ImportError as error:
            raise missing_packages("the umT5 text encoder") from error
        root = Path(self.folder)
        encoder_folder, tokenizer_folder = (_part(root, part) for part in _PARTS)
        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
            encoder, report = UMT5EncoderModel.from_pretrained(
                encoder_folder,
                dtype=getattr(torch, self.dtype),
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the text encoder in {root}: download it again") from error
        # Files hold the embedding once, under `shared`. Some releases of transformers 5 do not tie
        # the two by themselves and would encode with zeros.
        absent = set(report["missing_keys"]) - {"encoder.embed_tokens.weight"}
        if absent or encoder.config.d_model != self.width:
            raise UserError(
                f"the text encoder in {root} is {encoder.config.d_model} wide and lacks "
                f"{len(absent)} tensors: choose text.width to match or download it again"
            )
        encoder.encoder.set_input_embeddings(encoder.shared)
        return tokenizer, encoder.eval().to(self.device)


def _part(root: Path, part: str) -> Path:
    """A folder below `root` that has to be there."""
    if not (root / part).is_dir():
        raise missing_folder(root, part, *_PARTS)
    return root / part


def clean(prompt: str) -> str:
    """Repair broken Unicode, unescape HTML twice, collapse white space: Wan's preparation."""
    try:
        import ftfy
    except ImportError as error:
        raise missing_packages("the umT5 text encoder") from error
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def missing_packages(what: str) -> UserError:
    """The error for parts of the Wan checkpoints that need the `wan` extra."""
    return UserError(f"{what} needs packages that are not here: pip install -e '.[wan]'")


def missing_folder(root: Path, part: str, *wanted: str) -> UserError:
    """The error for a folder in the layout of `HUB` that lacks `part`; says how to get `wanted`."""
    include = " ".join(f"--include '{name}/*'" for name in wanted)
    return UserError(
        f"found no folder {root / part}: type `hf download {HUB} {include} --local-dir {root}`, "
        "or set the folder to where it is"
    )
