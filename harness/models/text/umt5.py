"""The umT5-XXL text encoder of Wan2.1, which makes the rows that cross-attention reads.

Prompts are encoded once, before the videos, and then the encoder is freed: the rows take 4 MB per
prompt, the encoder 11 GB. Construction is cheap; `encode` loads the weights.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from harness.models.checkpoints.files import Stored, contents, files_of, is_complete
from harness.models.checkpoints.load import checkpoint_digest
from harness.models.checkpoints.locate import located
from harness.models.text.hashed_words import HashText
from harness.models.text.stored_rows import RowsFile
from harness.system.errors import UserError
from harness.system.logs import log
from harness.system.units import size

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
_PARTS = ("text_encoder", "tokenizer")  # folders below the encoder's own
_PACKAGES = ("transformers", "tokenizers", "ftfy")  # packages that affect the rows
_PARAMETERS = 5_680_910_336  # of umT5-XXL's encoder; the shared embedding counts once


class UmT5Text:
    """The umT5-XXL encoder of Wan2.1, loaded from a folder in the layout of `HUB`.

    Prompts are cleaned, padded to `length` and encoded under their mask. Rows past the prompt are
    set to zero.

    folder: folder of the encoder, below the data folder or absolute.
    length: rows per prompt. width: channels of a row.
    weights: `checkpoint`, or `random`, which reads no files: `HashText` makes rows of the same
    shape, for systems measurements whose values do not matter.
    dtype: bfloat16 (10.6 GiB) or float32 (twice as much).
    embeddings: file of encoded prompts (`harness.models.text.stored_rows`), below the data folder
    or absolute; no encoder is needed then.

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
        embeddings: str | None = None,
    ) -> None:
        if dtype not in ("bfloat16", "float32"):
            raise UserError(f"text.dtype={dtype}: choose bfloat16 or float32")
        if weights not in ("checkpoint", "random"):
            raise UserError(f"text.weights={weights}: choose checkpoint or random")
        self.folder, self.length, self.width = folder, length, width
        self.embeddings = embeddings
        self._root = Path()
        self._random = HashText(length, width) if weights == "random" else None
        self.device, self.dtype = torch.device("cpu"), dtype
        self._loaded: tuple[Any, Any] | None = None

    def locate(self, root: Path) -> None:
        """Resolve relative paths below `root`, or in the hub's cache."""
        self._root = root
        if self._random is None and self.embeddings is None:
            self.folder = str(located(root, self.folder, HUB))

    def to(self, device: torch.device) -> None:
        """Encode on this device from now on, and free a loaded encoder."""
        self.close()
        self.device = device

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the encoder's weights while it is loaded."""
        if self._random is not None or self.embeddings is not None:
            return 0
        itemsize: int = getattr(torch, self.dtype).itemsize
        return _PARAMETERS * itemsize

    @property
    def ready(self) -> RowsFile | None:
        """Return the file of encoded prompts, or None if prompts are encoded."""
        if self._random is not None or self.embeddings is None:
            return None
        return RowsFile(self._root / self.embeddings, self.length, self.width)

    def recorded(self) -> str | None:
        """Return the file of encoded prompts and its SHA-256, or None if prompts are encoded."""
        return None if self.ready is None else f"{self.embeddings} {self.ready.digest()}"

    def missing(self) -> list[Path]:
        """Return the missing files and folders that `encode` needs."""
        if self._random is not None:
            return []
        if self.ready is not None:
            return [] if self.ready.path.is_file() else [self.ready.path]
        encoder, tokenizer = (Path(self.folder) / part for part in _PARTS)
        found = {encoder: is_complete(encoder), tokenizer: any(tokenizer.glob("*.json"))}
        return [path for path, is_there in found.items() if not is_there]

    def examine(self) -> str:
        """Check the files without loading weights, and describe them.

        Raises  UserError: packages or files are missing, damaged, or of a different width.
        """
        if self._random is not None:
            return "random rows"
        if self.ready is not None:
            return f"{len(self.ready.prompts())} prompts in {self.ready.path}"
        encoder = _part(Path(self.folder), _PARTS[0])
        self._demand_width(_config_width(encoder))
        weights = contents(files_of(encoder))
        self._tokenizer()
        clean("")
        total = sum(each.nbytes for each in weights.values() if isinstance(each, Stored))
        return f"{len(weights)} tensors in files of {size(total)}, {self.dtype}"

    def origin(self) -> str | None:
        """Return a digest of weights and tokenizer, and package versions; None without an encoder.

        The digest covers every byte of the small files, and of the weights what
        `checkpoint_digest` covers.

        Raises  UserError: packages or files are missing.
        """
        if self._random is not None or self.embeddings is not None:
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
        """Return rows [num_prompts, length, width] fp32; loads the encoder if necessary."""
        if self._random is not None:
            return self._random.encode(prompts)
        if self.ready is not None:
            return self.ready.encode(prompts)
        rows = torch.zeros(len(prompts), self.length, self.width)
        # Encode one prompt at a time, so that its rows do not depend on the others in a batch.
        for own, prompt in zip(rows, prompts, strict=True):
            hidden = self._encode_one(clean(prompt))
            own[: len(hidden)] = hidden
        return rows

    def is_full(self, rows_TE: Tensor) -> bool:
        """Return whether a prompt fills all rows, so that its last words may have been ignored."""
        return bool(rows_TE[-1].any())

    def close(self) -> None:
        """Free the encoder; the next `encode` loads it again."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def _encode_one(self, prompt: str) -> Tensor:
        """Return the rows of the prompt's tokens, without padding [num_tokens, width] fp32."""
        self._loaded = self._loaded or self._load()
        tokenizer, encoder = self._loaded
        num_tokens = len(tokenizer([prompt]).input_ids[0])
        if num_tokens > self.length:
            log.warning(
                "a prompt has %d tokens and the text encoder takes %d: its last %d are not read "
                "(%r)",
                num_tokens,
                self.length,
                num_tokens - self.length,
                prompt[:60],
            )
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
            from transformers import UMT5EncoderModel
        except ImportError as error:
            raise missing_packages("the umT5 text encoder") from error
        root = Path(self.folder)
        encoder_folder, tokenizer = _part(root, _PARTS[0]), self._tokenizer()
        try:
            encoder, report = UMT5EncoderModel.from_pretrained(
                encoder_folder,
                dtype=getattr(torch, self.dtype),
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the text encoder in {root}: download it again") from error
        # Files store the embedding once, under `shared`. Some releases of transformers 5 do not
        # tie the encoder's embedding to it and would encode with zeros.
        absent = set(report["missing_keys"]) - {"encoder.embed_tokens.weight"}
        if absent:
            raise UserError(
                f"the text encoder in {root} lacks {len(absent)} tensors: download it again"
            )
        self._demand_width(encoder.config.d_model)
        encoder.encoder.set_input_embeddings(encoder.shared)
        return tokenizer, encoder.eval().to(self.device)

    def _tokenizer(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise missing_packages("the umT5 text encoder") from error
        folder = _part(Path(self.folder), _PARTS[1])
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"cannot load the tokenizer in {folder}: download it again") from error

    def _demand_width(self, width: int) -> None:
        if width != self.width:
            raise UserError(
                f"the text encoder in {self.folder} is {width} wide, not {self.width}: choose "
                "text.width to match or download it again"
            )


def _config_width(folder: Path) -> int:
    """Return the width of an encoder from its config.json."""
    if not (folder / "config.json").is_file():  # an interrupted download
        raise missing_folder(folder.parent, folder.name, *_PARTS)
    try:
        return int(json.loads((folder / "config.json").read_text())["d_model"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder / 'config.json'} is damaged: download it again") from error


def _part(root: Path, part: str) -> Path:
    """Return a folder below `root`, which must exist."""
    if not (root / part).is_dir():
        raise missing_folder(root, part, *_PARTS)
    return root / part


def clean(prompt: str) -> str:
    """Repair broken Unicode, unescape HTML twice and collapse white space, as Wan does."""
    try:
        import ftfy
    except ImportError as error:
        raise missing_packages("the umT5 text encoder") from error
    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


def missing_packages(what: str) -> UserError:
    """Return the error for missing packages of the `wan` extra."""
    return UserError(
        f"{what} needs packages that are not here: type pip install 'video-kv-bench[wan]'"
    )


def missing_folder(root: Path, part: str, *wanted: str) -> UserError:
    """Return the error for a folder without `part`, with the command that fetches `wanted`."""
    include = " ".join(f"--include '{name}/*'" for name in wanted)
    return UserError(
        f"found no folder {root / part}, or not all of it: type `hf download {HUB} {include} "
        f"--local-dir {root}`, or set the folder to where it is"
    )
