"""The Wan VAE: decodes latents frame by frame, so that the device never holds a whole video.

The first latent frame gives one pixel frame, each later one four. Construction is cheap; `to` or
`decode` loads the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from harness.models.checkpoints.files import is_complete
from harness.models.checkpoints.locate import located
from harness.models.decoders.wan_vae_by_frame import FrameByFrame, decode_as_published, decode_frame
from harness.models.text.folder_encoder import missing_folder, missing_packages
from harness.models.text.umt5 import HUB
from harness.sampling.decoding import pixels
from harness.system.errors import UserError

_DTYPES = ("bfloat16", "float16", "float32")


class WanVae:
    """The decoder of the Wan2.1 VAE; streams frames, with the same result as decoding all at once.

    Convolutions look back in time. Their features of earlier frames (1.8 GiB in 16 bit at
    480 x 832) live as long as the iterator that `decode` returns; `feature_bytes` is their maximum
    in the last video.

    folder: folder in the layout of the hub's repository, with a `vae` subfolder.
    weights: `checkpoint`, or `random` for the published sizes with seeded noise.
    dtype: bfloat16, float16 or float32.
    lean: process pixel frames one by one in the last stages, which saves most of the memory.
    Kernels may then sum in a different order than for four frames (1e-5 in fp32). False makes the
    same calls as a whole decode and is bit-identical to it.

    Source  Wan2.1 (arXiv 2503.20314), diffusers' `AutoencoderKLWan`.
    Shapes  normalised latents [F, 16, h, w] -> per frame uint8 [1 or 4, 8 h, 8 w, 3].
    Raises  UserError, from `to` or `decode`: packages, folder or weights are missing; the VAE is
            not Wan2.1's; latents have a different number of channels.
    """

    stride = (4, 8)
    encodes: ClassVar[bool] = False

    def __init__(
        self,
        folder: str,
        weights: Literal["checkpoint", "random"] = "checkpoint",
        dtype: str = "bfloat16",
        lean: bool = True,
    ) -> None:
        if weights not in ("checkpoint", "random"):
            raise UserError(f"vae.weights={weights}: choose checkpoint or random")
        if dtype not in _DTYPES:
            raise UserError(f"vae.dtype={dtype}: choose {', '.join(_DTYPES)}")
        self.folder, self.weights, self.dtype, self.lean = folder, weights, dtype, lean
        self.feature_bytes = 0
        self._vae: Any = None

    def locate(self, root: Path) -> None:
        """Resolve a relative folder below `root`, or in the hub's cache."""
        if self.weights == "checkpoint":
            self.folder = str(located(root, self.folder, HUB))

    def missing(self) -> list[Path]:
        """Return the missing folders that `decode` needs."""
        folder = Path(self.folder) / "vae"
        return [] if self.weights == "random" or is_complete(folder) else [folder]

    def to(self, device: torch.device | str) -> WanVae:
        """Load the decoder if necessary, and move it to `device`."""
        self._vae = (self._vae or self._load()).to(device)
        return self

    def close(self) -> None:
        """Free the decoder; the next call loads it again."""
        on_gpu = self._vae is not None and self._vae.device.type == "cuda"
        self._vae = None
        if on_gpu:
            torch.cuda.empty_cache()

    def decode(self, latents_FChw: Tensor) -> Iterator[NDArray[np.uint8]]:
        """Yield the pixels of each latent frame [1 or 4, H, W, 3] uint8."""
        return map(pixels, self.stream(latents_FChw))

    def hollow(self) -> WanVae:
        """Return the same decoder on the meta device: true sizes without values or files."""
        kind = _autoencoder()
        with torch.device("meta"):
            vae = torch.nn.Module.to(kind(), getattr(torch, self.dtype))
        hollow = type(self)(self.folder, self.weights, self.dtype, self.lean)
        hollow._vae = self._fitted(vae)
        return hollow

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1.

        If the decoder is not loaded, it is loaded onto the device of the latents.
        """
        if self._vae is None:
            self.to(latents_FChw.device)
        _demand_channels(latents_FChw, self._vae.config.z_dim)
        return self._stream(latents_FChw)

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """Decode the whole video in one call of the VAE [T, 3, H, W] fp32 in -1..1, as published.

        The VAE concatenates frames on the device, which takes most of its memory.
        """
        if self._vae is None:
            self.to(latents_FChw.device)
        _demand_channels(latents_FChw, self._vae.config.z_dim)
        z = self._scaled(latents_FChw.transpose(0, 1)[None])
        self.feature_bytes = 0
        watch = self._vae.decoder.register_forward_hook(lambda *_: self._see(self._vae._feat_map))
        try:
            with torch.no_grad():
                frames = self._vae.decode(z.to(self._vae.dtype)).sample
        finally:
            watch.remove()
        whole: Tensor = frames[0].transpose(0, 1).float().clamp(-1, 1)
        return whole

    @property
    def nbytes(self) -> int:
        """Return the bytes of the weights on the device, 0 before they are loaded."""
        parameters = self._vae.parameters() if self._vae is not None else ()
        return sum(parameter.nbytes for parameter in parameters)

    def _scaled(self, latents_BCFhw: Tensor) -> Tensor:
        """Undo the normalization of latents, fp32."""
        mean, std = self._scale()
        return latents_BCFhw.to(self._vae.device).float() * std + mean

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every channel [1, C, 1, 1, 1], fp32."""
        config, device = self._vae.config, self._vae.device
        values = (config.latents_mean, config.latents_std)
        mean, std = (torch.tensor(x, device=device).view(1, -1, 1, 1, 1) for x in values)
        return mean, std

    def _fitted(self, vae: Any) -> Any:
        """Prepare a loaded VAE for inference."""
        # Without encoding, drop the encoder: 54 M parameters.
        if not self.encodes:
            vae.encoder = torch.nn.Identity()
        for block in vae.decoder.up_blocks if self.lean else ():
            for upsampler in block.upsamplers or ():
                upsampler.resample = FrameByFrame(upsampler.resample)
        return vae.eval().requires_grad_(False)

    def _stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        vae = self._vae
        vae.clear_cache()
        self.feature_bytes = 0
        # Use a separate list, as long as the model's: the model would keep its own after the video.
        cache = [None] * len(vae._feat_map)
        for i, latent_Chw in enumerate(latents_FChw):
            z = self._scaled(latent_Chw[None, :, None])
            with torch.no_grad():
                x = vae.post_quant_conv(z.to(vae.dtype))
                if self.lean:
                    frames = decode_frame(vae.decoder, x, cache)
                else:
                    frames = decode_as_published(vae.decoder, x, cache, first=i == 0)
            self._see(cache)
            yield frames[0].transpose(0, 1)

    def _see(self, cache: Sequence[Any]) -> None:
        """Update `feature_bytes` from the features that the convolutions hold."""
        # Some entries are strings, not tensors.
        held = sum(x.nbytes for x in cache if isinstance(x, Tensor))
        self.feature_bytes = max(self.feature_bytes, held)

    def _load(self) -> Any:
        build = self._random if self.weights == "random" else self._checkpoint
        vae = build(_autoencoder())
        if vae.config.patch_size is not None:
            raise UserError(f"the VAE in {self.folder} is Wan2.2's: choose the folder of a Wan2.1")
        return self._fitted(vae)

    def _random(self, kind: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed GPUs too
            # Bypass the model's own `to`, which warns at every change of dtype.
            return torch.nn.Module.to(kind(), getattr(torch, self.dtype))

    def _checkpoint(self, kind: Any) -> Any:
        root = Path(self.folder)
        if not (root / "vae").is_dir():
            raise missing_folder(root, "vae", HUB, "vae")
        try:
            vae, report = kind.from_pretrained(
                root / "vae",
                torch_dtype=getattr(torch, self.dtype),
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the VAE in {root / 'vae'}: download it again") from error
        if report["missing_keys"]:
            raise UserError(f"the VAE in {root / 'vae'} lacks tensors: download it again")
        return vae


class WanCodec(WanVae):
    """The Wan VAE with its encoder, for loops that start a new history from a picture."""

    encodes = True

    def encode(self, frame_13HW: Tensor) -> Tensor:
        """Return the mode of the latent of a first picture [1, 16, h, w] fp32, normalised.

        frame_13HW: pixels [1, 3, H, W] in -1..1.
        """
        if self._vae is None:
            self.to(frame_13HW.device)
        x = frame_13HW.to(self._vae.device, self._vae.dtype).transpose(0, 1)[None]
        mean, std = self._scale()
        with torch.no_grad():
            z: Tensor = self._vae.encode(x).latent_dist.mode()
        return ((z.float() - mean) / std)[0].transpose(0, 1)


def _autoencoder() -> Any:
    """Return diffusers' class of the Wan2.1 VAE."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise missing_packages("the Wan VAE") from error
    return AutoencoderKLWan


def _demand_channels(latents_FChw: Tensor, channels: int) -> None:
    if latents_FChw.shape[1] != channels:
        raise UserError(
            f"latents have {latents_FChw.shape[1]} channels and the decoder takes {channels}: "
            "choose the decoder of this model"
        )
