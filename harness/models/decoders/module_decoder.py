"""Bases of the decoders, which run a torch module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from harness.models.checkpoints.files import is_complete
from harness.models.checkpoints.locate import located
from harness.models.text.folder_encoder import missing_folder
from harness.results.video_files import Frames
from harness.sampling.decoding import pixels
from harness.system.errors import UserError

DTYPES = ("bfloat16", "float16", "float32")
Weights = Literal["checkpoint", "random"]
T = TypeVar("T")


class LazyDecoder(ABC):
    """Decoder that loads its module on first use and streams pixels, a latent frame at a time."""

    # Nothing is loaded at first: a plan, a dry run or a list of models needs no weights.
    _module: Any = None

    @abstractmethod
    def _load(self) -> Any:
        """Return the module with its weights on the CPU, for inference."""

    @abstractmethod
    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1.

        If the weights are not loaded, they are loaded onto the device of the latents.
        """

    def to(self, device: torch.device | str) -> Self:
        """Load the weights if necessary, and move them to `device`."""
        self._module = (self._module or self._load()).to(device)
        return self

    def close(self) -> None:
        """Free the weights; the next call loads them again."""
        on_gpu = any(parameter.is_cuda for parameter in self._parameters())
        self._module = None
        # PyTorch keeps freed memory for itself; return it, as other processes may need it.
        if on_gpu:
            torch.cuda.empty_cache()

    @property
    def nbytes(self) -> int:
        """Return the bytes of the weights on the device, 0 before they are loaded."""
        return sum(parameter.nbytes for parameter in self._parameters())

    def decode(self, latents_FChw: Tensor) -> Iterator[Frames]:
        """Yield the pixels of each latent frame [1 or 4, H, W, 3] uint8."""
        # Lazily, so that the device holds the pixels of one latent frame at a time.
        return map(pixels, self.stream(latents_FChw))

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """Return the whole video on the device [T, 3, H, W] fp32 in -1..1, equal to `stream`."""
        return torch.cat(list(self.stream(latents_FChw)))

    def _parameters(self) -> list[Tensor]:
        return [] if self._module is None else list(self._module.parameters())

    def _loaded(self, device: torch.device) -> Any:
        """Return the module; if it is not loaded, load it onto a device."""
        # A loaded one stays where `to` has put it.
        if self._module is None:
            self.to(device)
        return self._module


class ModuleDecoder(LazyDecoder):
    """Decoder whose weights come from a folder of the user, or are random.

    setting: name of the decoder in error messages.
    hub, part: repository on the hub, whose layout the folder has, and the folder of the weights in
        it.
    encodes: whether the module keeps its encoder.
    """

    setting: ClassVar[str]
    hub: ClassVar[str]
    part: ClassVar[str]
    encodes: ClassVar[bool] = False

    def __init__(self, folder: str, weights: Weights, dtype: str) -> None:
        if weights not in ("checkpoint", "random"):
            raise UserError(f"{self.setting}.weights={weights}: choose checkpoint or random")
        if dtype not in DTYPES:
            raise UserError(f"{self.setting}.dtype={dtype}: choose {', '.join(DTYPES)}")
        self.folder, self.dtype = folder, dtype
        self.weights: Weights = weights

    def locate(self, root: Path) -> None:
        """Resolve a relative folder below `root`, or in the hub's cache."""
        if self.weights == "checkpoint":
            self.folder = str(located(root, self.folder, self.hub))

    def missing(self) -> list[Path]:
        """Return the missing folders that `decode` needs."""
        folder = Path(self.folder) / self.part
        return [] if self.weights == "random" or is_complete(folder) else [folder]

    def _weights_folder(self) -> Path:
        """Return the folder of the weights; raise UserError if it does not exist."""
        root = Path(self.folder)
        if not (root / self.part).is_dir():
            raise missing_folder(root, self.part, self.hub, self.part)
        return root / self.part


def demand_channels(latents_FChw: Tensor, channels: int) -> None:
    """Raise UserError unless latents have the decoder's number of channels."""
    if latents_FChw.shape[1] != channels:
        raise UserError(
            f"latents have {latents_FChw.shape[1]} channels and the decoder takes {channels}: "
            "choose the decoder of this model"
        )


def seeded(build: Callable[[], T]) -> T:
    """Return `build()` under a fixed seed; all generators keep their state."""
    # Modules draw their first weights from the global generator, whose state is the caller's.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs too
        return build()
