"""The Wan VAE: decodes latents frame by frame, so that the device never holds a whole video.

The first latent frame gives one pixel frame, each later one four. Construction is cheap; `to` or
`decode` loads the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from harness.models.decoders.module_decoder import (
    ModuleDecoder,
    Weights,
    demand_channels,
    seeded,
)
from harness.models.decoders.wan_vae_by_frame import FrameByFrame, decode_frame
from harness.models.text.folder_encoder import WAN_HUB, missing_packages
from harness.system.errors import UserError


class WanVae(ModuleDecoder):
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

    setting: ClassVar[str] = "vae"
    hub: ClassVar[str] = WAN_HUB
    part: ClassVar[str] = "vae"

    def __init__(
        self,
        folder: str,
        weights: Weights = "checkpoint",
        dtype: str = "bfloat16",
        lean: bool = True,
    ) -> None:
        super().__init__(folder, weights, dtype)
        self.lean = lean
        self.feature_bytes = 0

    def hollow(self) -> WanVae:
        """Return the same decoder on the meta device: true sizes without values or files."""
        # The planner runs it to count the bytes of a decode.
        kind = _autoencoder()
        with torch.device("meta"):
            vae = torch.nn.Module.to(kind(), getattr(torch, self.dtype))
        hollow = type(self)(self.folder, self.weights, self.dtype, self.lean)
        hollow._module = self._prepare(vae)
        return hollow

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1.

        If the decoder is not loaded, it is loaded onto the device of the latents.
        """
        vae = self._loaded(latents_FChw.device)
        # Before the generator: its body runs only once the first frame is asked for.
        demand_channels(latents_FChw, vae.config.z_dim)
        return self._stream(vae, latents_FChw)

    def decode_whole(self, latents_FChw: Tensor) -> Tensor:
        """Decode the whole video in one call of the VAE [T, 3, H, W] fp32 in -1..1, as published.

        The VAE concatenates frames on the device, which takes most of its memory.
        """
        vae = self._loaded(latents_FChw.device)
        demand_channels(latents_FChw, vae.config.z_dim)
        z = self._denormalize(latents_FChw.transpose(0, 1)[None])
        self.feature_bytes = 0
        # The VAE frees its features at the end, so measure them after each latent frame.
        hook = vae.decoder.register_forward_hook(lambda *_: self._measure(vae._feat_map))
        try:
            with torch.no_grad():
                frames = vae.decode(z.to(vae.dtype)).sample
        finally:
            hook.remove()
        whole: Tensor = frames[0].transpose(0, 1).float().clamp(-1, 1)
        return whole

    def _denormalize(self, latents_BCFhw: Tensor) -> Tensor:
        """Undo the normalization of latents, fp32."""
        # The network works on latents with mean 0 and deviation 1 in each channel.
        mean, std = self._mean_and_std()
        return latents_BCFhw.to(self._module.device).float() * std + mean

    def _mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of every channel [1, C, 1, 1, 1], fp32."""
        # Of the checkpoint's own config, as they belong to its weights.
        config, device = self._module.config, self._module.device
        values = (config.latents_mean, config.latents_std)
        mean, std = (torch.tensor(x, device=device).view(1, -1, 1, 1, 1) for x in values)
        return mean, std

    def _prepare(self, vae: Any) -> Any:
        """Prepare a loaded VAE for inference."""
        # Without encoding, drop the encoder: 54 M parameters.
        if not self.encodes:
            vae.encoder = torch.nn.Identity()
        # diffusers upsamples in fp32: frame by frame, these copies stay small.
        for block in vae.decoder.up_blocks if self.lean else ():
            for upsampler in block.upsamplers or ():
                upsampler.resample = FrameByFrame(upsampler.resample)
        return vae.eval().requires_grad_(False)

    def _stream(self, vae: Any, latents_FChw: Tensor) -> Iterator[Tensor]:
        vae.clear_cache()
        self.feature_bytes = 0
        # Use a separate list, as long as the model's: the model would keep its own after the video.
        cache = [None] * len(vae._feat_map)
        for i, latent_Chw in enumerate(latents_FChw):
            z = self._denormalize(latent_Chw[None, :, None])
            with torch.no_grad():
                x = vae.post_quant_conv(z.to(vae.dtype))
                if self.lean:
                    frames = decode_frame(vae.decoder, x, cache)
                else:
                    # The call that diffusers makes in a whole decode. It uses private names of the
                    # pinned package; a test compares it bit for bit with a whole decode.
                    out = vae.decoder(x, feat_cache=cache, feat_idx=[0], first_chunk=i == 0)
                    frames = out.float().clamp(-1, 1)
            self._measure(cache)
            yield frames[0].transpose(0, 1)

    def _measure(self, cache: Sequence[Any]) -> None:
        """Update `feature_bytes` from the features that the convolutions hold."""
        # Some entries are strings, not tensors.
        held = sum(x.nbytes for x in cache if isinstance(x, Tensor))
        self.feature_bytes = max(self.feature_bytes, held)

    def _load(self) -> Any:
        kind, dtype = _autoencoder(), getattr(torch, self.dtype)
        if self.weights == "random":
            # Bypass the model's own `to`, which warns at every change of dtype.
            return self._prepare(seeded(lambda: torch.nn.Module.to(kind(), dtype)))
        folder = self._weights_folder()
        try:
            # local_files_only: only `fetch` downloads.
            vae, report = kind.from_pretrained(
                folder, torch_dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(f"cannot load the VAE in {folder}: download it again") from error
        # diffusers only warns of missing tensors, and leaves random values in their place.
        if report["missing_keys"]:
            raise UserError(f"the VAE in {folder} lacks tensors: download it again")
        # Wan2.2's has the same class and folder, and latents of another kind.
        if vae.config.patch_size is not None:
            raise UserError(f"the VAE in {self.folder} is Wan2.2's: choose the folder of a Wan2.1")
        return self._prepare(vae)


class WanCodec(WanVae):
    """The Wan VAE with its encoder, for loops that start a new history from a picture."""

    encodes = True

    def encode(self, frame_13HW: Tensor) -> Tensor:
        """Return the mode of the latent of a first picture [1, 16, h, w] fp32, normalised.

        frame_13HW: pixels [1, 3, H, W] in -1..1.
        """
        vae = self._loaded(frame_13HW.device)
        x = frame_13HW.to(vae.device, vae.dtype).transpose(0, 1)[None]
        mean, std = self._mean_and_std()
        with torch.no_grad():
            z: Tensor = vae.encode(x).latent_dist.mode()
        return ((z.float() - mean) / std)[0].transpose(0, 1)


def _autoencoder() -> Any:
    """Return diffusers' class of the Wan2.1 VAE."""
    try:
        from diffusers import AutoencoderKLWan
    except ImportError as error:
        raise missing_packages("the Wan VAE") from error
    return AutoencoderKLWan
