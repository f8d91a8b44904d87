"""Text encoders of the T5 family: UMT5-XXL of Wan2.1 and T5 v1.1 XXL of MAGI-1.

Both are folders of files as transformers reads them. Prompts are encoded once, before the videos,
and then the encoder is freed: the rows take megabytes per prompt, the encoder gigabytes.
Construction is cheap; `encode` loads the weights.
"""

from __future__ import annotations

import hashlib
import html
import importlib.metadata
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from harness.models.checkpoints.files import Stored, contents, files_of, is_complete
from harness.models.checkpoints.load import checkpoint_digest
from harness.models.checkpoints.locate import located
from harness.models.text.captions import clean_caption
from harness.models.text.hashed_words import HashText
from harness.models.text.stored_rows import RowsFile
from harness.system.errors import UserError
from harness.system.logs import log
from harness.system.units import size

WAN_HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
_PACKAGES = ("transformers", "tokenizers", "ftfy")  # other versions of these give other rows


class FolderEncoder(ABC):
    """A text encoder and its tokenizer, loaded from a folder in the layout of `hub`.

    Prompts are cleaned, padded to `length` and encoded under their mask. Rows past the prompt are
    set to zero.

    what: name of the encoder in messages.
    hub: repository on the hub; the folder has its layout.
    encoder_part, tokenizer_part: folders in the repository.
    encoder_class: name of the class in transformers.
    parameters: number of parameters.

    folder: folder with the layout of `hub`, below the data folder or absolute.
    length: rows per prompt.
    width: channels of a row.
    weights: `checkpoint`, or `random`, which reads no files: `HashText` makes rows of the same
        shape, for systems measurements whose values do not matter.
    dtype: bfloat16 or float32.
    embeddings: file of encoded prompts (`harness.models.text.stored_rows`), below the data folder
        or absolute; it replaces the encoder.

    Shapes  num_prompts strings -> [num_prompts, length, width] float32 on the CPU.
    Raises  UserError, from `encode`: packages, folder or weights missing; another width.
    """

    what: ClassVar[str]
    hub: ClassVar[str]
    encoder_part: ClassVar[str]
    tokenizer_part: ClassVar[str]
    encoder_class: ClassVar[str]
    parameters: ClassVar[int]

    def __init__(
        self,
        folder: str,
        length: int,
        width: int,
        weights: str,
        dtype: str,
        embeddings: str | None,
    ) -> None:
        if dtype not in ("bfloat16", "float32"):
            raise UserError(f"text.dtype={dtype}: choose bfloat16 or float32")
        if weights not in ("checkpoint", "random"):
            raise UserError(f"text.weights={weights}: choose checkpoint or random")
        # Nothing is read yet: a list or a check of presets builds all of them.
        self.folder, self.length, self.width = folder, length, width
        self.embeddings = embeddings
        self._root = Path()
        self._random = HashText(length, width) if weights == "random" else None
        self.device, self.dtype = torch.device("cpu"), dtype
        self._loaded: tuple[Any, Any] | None = None

    @staticmethod
    @abstractmethod
    def clean(prompt: str) -> str:
        """Return a prompt as the model was trained to read it."""

    def locate(self, root: Path) -> None:
        """Resolve relative paths below `root`, or in the hub's cache."""
        self._root = root
        if self._random is None and self.embeddings is None:
            self.folder = str(located(root, self.folder, self.hub))

    def to(self, device: torch.device) -> None:
        """Encode on this device from now on, and free a loaded encoder."""
        # Freed, not moved: it is loaded again onto its device, if a prompt needs it at all.
        self.close()
        self.device = device

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the encoder's weights while it is loaded."""
        if self._random is not None or self.embeddings is not None:
            return 0
        # From the published number: a plan must not load the encoder to count its bytes.
        itemsize: int = getattr(torch, self.dtype).itemsize
        return self.parameters * itemsize

    @property
    def ready(self) -> RowsFile | None:
        """Return the file of encoded prompts, or None if prompts are encoded."""
        # Random rows come first: such a run must need no file at all.
        if self._random is not None or self.embeddings is None:
            return None
        return RowsFile(self._root / self.embeddings, self.length, self.width)

    def recorded(self) -> str | None:
        """Return the file of encoded prompts and its SHA-256, or None if prompts are encoded."""
        # Rows of results name it: such a file may come from any encoder.
        return None if self.ready is None else f"{self.embeddings} {self.ready.digest()}"

    def missing(self) -> list[Path]:
        """Return the missing files and folders that `encode` needs."""
        if self._random is not None:
            return []
        if self.ready is not None:
            return [] if self.ready.path.is_file() else [self.ready.path]
        encoder, tokenizer = (Path(self.folder) / part for part in self._parts())
        missing = [] if is_complete(encoder) else [encoder]
        # Both parts may be the same folder.
        if not any(tokenizer.glob("tokenizer*.json")) and tokenizer not in missing:
            missing.append(tokenizer)
        return missing

    def examine(self) -> str:
        """Check the files without loading weights, and describe them.

        Raises  UserError: packages or files are missing, damaged, or of a different width.
        """
        if self._random is not None:
            return "random rows"
        if self.ready is not None:
            return f"{len(self.ready.prompts())} prompts in {self.ready.path}"
        encoder = self._subfolder(self.encoder_part)
        config = encoder / "config.json"
        if not config.is_file():  # an interrupted download
            raise missing_folder(Path(self.folder), self.encoder_part, self.hub, *self._parts())
        try:
            width = int(json.loads(config.read_text())["d_model"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f"{config} is damaged: download it again") from error
        self._demand_width(width)
        # Names and sizes of all tensors, so that a shard that was cut short is found.
        weights = contents(files_of(encoder))
        # Both fail now, and not after hours, if a package is missing.
        self._tokenizer()
        self.clean("")
        total = sum(each.nbytes for each in weights.values() if isinstance(each, Stored))
        return f"{len(weights)} tensors in files of {size(total)}, {self.dtype}"

    def origin(self) -> str | None:
        """Return a digest of weights and tokenizer, and package versions; None without an encoder.

        Raises  UserError: packages or files are missing.
        """
        if self._random is not None or self.embeddings is not None:
            return None
        encoder, tokenizer = (self._subfolder(part) for part in self._parts())
        # Small files count with every byte; of the weights, which have gigabytes, both ends.
        digest = hashlib.sha256(checkpoint_digest(encoder).encode())
        config, weights = encoder / "config.json", files_of(encoder)
        # Both may lie in one folder: read neither the config twice nor the weights whole.
        rest = [x for x in sorted(tokenizer.iterdir()) if x not in (config, *weights)]
        for file in [config, *rest]:
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
        try:
            versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
        except importlib.metadata.PackageNotFoundError as error:
            raise missing_packages(self.what) from error
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
            text = self.clean(prompt)
            self._loaded = self._loaded or self._load()
            tokenizer, encoder = self._loaded
            # Count the tokens first: the tokenizer truncates without a warning.
            num_tokens = len(tokenizer([text]).input_ids[0])
            if num_tokens > self.length:
                log.warning(
                    "a prompt has %d tokens and the text encoder takes %d: its last %d are not "
                    "read (%r)",
                    num_tokens,
                    self.length,
                    num_tokens - self.length,
                    text[:60],
                )
            tokens = tokenizer(
                [text],
                padding="max_length",
                max_length=self.length,
                truncation=True,
                return_attention_mask=True,
                return_tensors="pt",
            ).to(self.device)
            with torch.no_grad():
                hidden = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
            # Padding is on the right. The encoder gives it rows too, which the network must not
            # see.
            length = int(tokens.attention_mask.sum())
            own[:length] = hidden[:length].float().cpu()
        return rows

    def is_full(self, rows_TE: Tensor) -> bool:
        """Return whether a prompt fills all rows, so that its last words may have been ignored."""
        # Padding rows are zero, so a last row that is not zero belongs to the prompt.
        return bool(rows_TE[-1].any())

    def close(self) -> None:
        """Free the encoder; the next `encode` loads it again."""
        self._loaded = None
        # Return the memory to the device: the network of the videos comes next.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _load(self) -> tuple[Any, Any]:
        try:
            import transformers
        except ImportError as error:
            raise missing_packages(self.what) from error
        root, encoder_class = Path(self.folder), getattr(transformers, self.encoder_class)
        encoder_folder, tokenizer = self._subfolder(self.encoder_part), self._tokenizer()
        # local_files_only, here and below: only `fetch` downloads.
        try:
            encoder, report = encoder_class.from_pretrained(
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
            raise missing_packages(self.what) from error
        folder = self._subfolder(self.tokenizer_part)
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

    def _subfolder(self, part: str) -> Path:
        """Return a folder below `folder`; raise UserError if it does not exist."""
        folder = Path(self.folder)
        if not (folder / part).is_dir():
            raise missing_folder(folder, part, self.hub, *self._parts())
        return folder / part

    def _parts(self) -> tuple[str, str]:
        return self.encoder_part, self.tokenizer_part


# The number of parameters counts the embedding once, which encoder and `shared` have in common.
class UmT5Text(FolderEncoder):
    """The umT5-XXL encoder of Wan2.1; see `FolderEncoder`. 10.6 GiB in bfloat16.

    Source  Wan2.1 (arXiv 2503.20314); the steps of diffusers' Wan pipeline, with 512 rows as in
            training instead of its default of 226.
    """

    what = "the umT5 text encoder"
    hub = WAN_HUB
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


def missing_packages(what: str) -> UserError:
    """Return the error for missing packages of the `wan` extra."""
    return UserError(
        f"{what} needs packages that are not here: type pip install 'video-kv-bench[wan]'"
    )


def missing_folder(root: Path, part: str, hub: str, *wanted: str) -> UserError:
    """Return the error for a folder without `part`, with the command that fetches `wanted`."""
    include = " ".join(f"--include '{name}/*'" for name in dict.fromkeys(wanted))
    return UserError(
        f"found no folder {root / part}, or not all of it: type `hf download {hub} {include} "
        f"--local-dir {root}`, or set the folder to where it is"
    )
