"""The ViT-VAE of MAGI-1: a plain transformer over patches in each direction, applied to tiles.

It has no causal layers and no state: every tile is decoded alone, and every chunk of a video too.
Module names follow the checkpoint, so that its keys load without renaming. Construction is cheap;
`to` or `decode` loads the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.models.checkpoints.load import load_weights
from harness.models.decoders.module_decoder import ModuleDecoder, Weights, demand_channels, seeded

PART = "ckpt/vae"  # folder of the weights in the repository on the hub
SCALE = 0.18215  # latents of the network are those of the VAE times this
OVERLAP = 0.25  # share of a tile that fades into its neighbour, and that the next tile repeats


@dataclass(frozen=True)
class ViTDims:
    """Sizes of the VAE; the defaults are those of MAGI-1.

    dim, num_layers, num_heads, ffn_dim: sizes of the encoder, and of the decoder.
    patch: frames, rows and columns of pixels that become one latent.
    clip: frames, rows and columns of pixels of the clips in training; the position tables have
        their size.
    """

    dim: int = 1024
    num_layers: int = 24
    num_heads: int = 16
    ffn_dim: int = 4096
    latent_channels: int = 16
    patch: tuple[int, int, int] = (4, 8, 8)
    clip: tuple[int, int, int] = (16, 256, 256)

    @property
    def grid(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns that the position tables are made for."""
        frames, rows, columns = (n // own for n, own in zip(self.clip, self.patch, strict=True))
        return frames, rows, columns


class ViTNetwork(nn.Module):
    """Encoder and decoder of tiles.

    Source  MAGI-1 (arXiv 2505.13211), its released code.
    """

    def __init__(self, dims: ViTDims) -> None:
        """Build the modules; weights come from a checkpoint."""
        super().__init__()
        self.encoder = Encoder(dims)
        self.decoder = Decoder(dims)


class Half(nn.Module):
    """Base of encoder and decoder: a class token, positions, blocks and a norm."""

    def __init__(self, dims: ViTDims) -> None:
        super().__init__()
        self.dims = dims
        # The class token has a position of its own, the first.
        num_positions = 1 + dims.grid[0] * dims.grid[1] * dims.grid[2]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_positions, dims.dim))
        self.blocks = nn.ModuleList(Block(dims) for _ in range(dims.num_layers))
        self.norm = nn.LayerNorm(dims.dim)

    def run(self, x_BDFhw: Tensor) -> Tensor:
        """Run the blocks over tokens of a grid [B, dim, F, h, w] -> [B, F, h, w, dim]."""
        grid = x_BDFhw.shape[2:]
        place = self.pos_embed[:, 1:]
        # Tiles differ in size from the clips of training, so resize the position table.
        if tuple(grid) != self.dims.grid:
            table = place.transpose(1, 2).unflatten(2, self.dims.grid).float()
            table = F.interpolate(table, size=grid, mode="trilinear")
            place = table.flatten(2).transpose(1, 2).to(place.dtype)
        tokens = x_BDFhw.flatten(2).transpose(1, 2) + place
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        x = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)[:, 1:].unflatten(1, grid)
        return out


class Encoder(Half):
    """Encoder from the pixels of a tile to the mean of its latents."""

    def __init__(self, dims: ViTDims) -> None:
        super().__init__(dims)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, dims.dim, dims.patch, dims.patch)})
        self.last_layer = nn.Linear(dims.dim, 2 * dims.latent_channels)

    def forward(self, x_B3THW: Tensor) -> Tensor:
        """Return the mode of the latents [B, C, T / 4, h, w] of one tile; 1 frame counts as 4."""
        if x_B3THW.shape[2] == 1:
            x_B3THW = x_B3THW.expand(-1, -1, self.dims.patch[0], -1, -1)
        # The head also gives the variance, which only training draws from.
        moments = self.last_layer(self.run(self.patch_embed["proj"](x_B3THW)))
        mean: Tensor = moments[..., : self.dims.latent_channels].movedim(-1, 1)
        return mean


class Decoder(Half):
    """Decoder from the latents of a tile to its pixels."""

    def __init__(self, dims: ViTDims) -> None:
        super().__init__(dims)
        frames, rows, columns = dims.patch
        self.proj_in = nn.Linear(dims.latent_channels, dims.dim)
        self.last_layer = nn.Conv3d(dims.dim // (frames * rows * columns), 3, 3, padding=1)

    def forward(self, z_BCFhw: Tensor) -> Tensor:
        """Return the pixels [B, 3, 4 F, H, W] of one tile; 1 latent frame gives 1 pixel frame."""
        x = self.run(self.proj_in(z_BCFhw.movedim(1, -1)).movedim(-1, 1))
        # [B, F, h, w, frame, row, column, channel] -> [B, channel, T, H, W]
        x = x.unflatten(-1, (*self.dims.patch, -1)).permute(0, 7, 1, 4, 2, 5, 3, 6)
        out: Tensor = self.last_layer(x.flatten(6, 7).flatten(4, 5).flatten(2, 3))
        return out[:, :, :1] if z_BCFhw.shape[2] == 1 else out


class Block(nn.Module):
    """Attention without a norm before it, and a feed-forward with one."""

    def __init__(self, dims: ViTDims) -> None:
        super().__init__()
        d = dims.dim
        self.num_heads = dims.num_heads
        self.attn = nn.ModuleDict({"qkv": nn.Linear(d, 3 * d), "proj": nn.Linear(d, d)})
        self.norm2 = nn.LayerNorm(d)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(d, dims.ffn_dim), "fc2": nn.Linear(dims.ffn_dim, d)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the block: x [B, T, dim] -> the same shape."""
        qkv = self.attn["qkv"](x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        # Values are normalised too. The small number is added to the deviation, not inside its root
        # as in a layer norm.
        wide = qkv.float()
        std, mean = torch.std_mean(wide, dim=-1, correction=0, keepdim=True)
        q, k, v = ((wide - mean) / (std + 1e-5)).to(x.dtype)
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.attn["proj"](attended.transpose(1, 2).flatten(2))
        hidden = F.gelu(self.mlp["fc1"](self.norm2(x)))
        out: Tensor = x + self.mlp["fc2"](hidden)
        return out


def tiled(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: tuple[int, int],
    tile_out: tuple[int, int],
    chained: bool = False,
) -> Tensor:
    """Apply `run` to tiles of x [..., H, W], and return its outputs faded into each other.

    A tile fades first into the tile above it, then into the one on its left.

    tile: rows and columns of a tile of x. tile_out: those of its output. Tiles at the edges may be
    smaller.
    chained: a tile fades into neighbours that have faded already, as in MAGI-1's encoder; else into
    the outputs of `run`, as in its decoder.
    """
    strides = [int((1 - OVERLAP) * size) for size in tile]
    fade_rows, fade_columns = (int(OVERLAP * size) for size in tile_out)
    above: list[Tensor] = []
    rows: list[Tensor] = []
    for top in range(0, x.shape[-2], strides[0]):
        shown: list[Tensor] = []  # outputs that the neighbours fade into
        kept: list[Tensor] = []
        for left in range(0, x.shape[-1], strides[1]):
            raw = out = run(x[..., top : top + tile[0], left : left + tile[1]])
            if above:
                out = _fade(above[len(shown)], out, fade_rows, -2)
            if shown:
                out = _fade(shown[-1], out, fade_columns, -1)
            shown.append(out if chained else raw)
            # The tiles below and on the right repeat the rest, faded.
            kept.append(out[..., : tile_out[0] - fade_rows, : tile_out[1] - fade_columns])
        rows.append(torch.cat(kept, dim=-1))
        above = shown
    return torch.cat(rows, dim=-2)


def _fade(before: Tensor, own: Tensor, most: int, dim: int) -> Tensor:
    """Return `own` with its first lines along `dim` mixed with the last lines of `before`."""
    # Tiles at the edges may be smaller than the part that fades.
    n = min(most, before.shape[dim], own.shape[dim])
    share = torch.arange(n, device=own.device, dtype=torch.float32) / n
    share = (share[:, None] if dim == -2 else share).to(own.dtype)
    last = before.narrow(dim, before.shape[dim] - n, n)
    mixed = (1 - share) * last + share * own.narrow(dim, 0, n)
    return torch.cat([mixed, own.narrow(dim, n, own.shape[dim] - n)], dim=dim)


class ViTVae(ModuleDecoder):
    """The decoder of MAGI-1's VAE; every latent frame gives 4 pixel frames, the first one too.

    Chunks are decoded one by one, in tiles of 256 x 256 pixels and 12 frames; only the frames of
    one tile in time are on the device at once.

    folder: folder in the layout of the hub's repository, with the subfolder `ckpt/vae`.
    chunk_frames: latent frames of a chunk. tile: frames, rows and columns of a tile in pixels.
    weights: `checkpoint`, or `random` for these sizes with seeded noise.
    dtype: bfloat16, float16 or float32.
    first_pixel_frames: pixel frames of the first latent frame, which the length of a suite's videos
        is computed from; a preset has to name it.

    Source  MAGI-1 (arXiv 2505.13211), its released code, which truncates pixels instead of rounding
            them to nearest.
    Shapes  latents [F, 16, h, w] -> per latent frame uint8 [4, 8 h, 8 w, 3]; 1 pixel frame where a
            tile has a single latent frame.
    Raises  UserError, from `to` or `decode`: folder or weights are missing or do not fit; latents
            have a different number of channels.
    """

    setting: ClassVar[str] = "vae"
    hub: ClassVar[str] = "sand-ai/MAGI-1"
    part: ClassVar[str] = PART

    def __init__(
        self,
        folder: str,
        dims: ViTDims | None = None,
        chunk_frames: int = 6,
        tile: tuple[int, int, int] = (12, 256, 256),
        weights: Weights = "checkpoint",
        dtype: str = "bfloat16",
        first_pixel_frames: int = 4,
    ) -> None:
        super().__init__(folder, weights, dtype)
        self.dims, self.chunk_frames, self.tile = dims or ViTDims(), chunk_frames, tile
        self.first_pixel_frames = first_pixel_frames

    def hollow(self) -> ViTVae:
        """Return the same decoder on the meta device: true sizes without values or files."""
        hollow = type(self)(
            self.folder, self.dims, self.chunk_frames, self.tile, self.weights, self.dtype
        )
        with torch.device("meta"):
            vae = ViTNetwork(self.dims).to(getattr(torch, self.dtype))
        if not self.encodes:
            del vae.encoder
        hollow._module = vae.eval().requires_grad_(False)
        return hollow

    def stream(self, latents_FChw: Tensor) -> Iterator[Tensor]:
        """Yield the pixels of each latent frame on the device [1 or 4, 3, H, W] fp32 in -1..1.

        If the weights are not loaded, they are loaded onto the device of the latents.
        """
        vae = self._loaded(latents_FChw.device)
        # Before the generator: its body runs only once the first frame is asked for.
        demand_channels(latents_FChw, self.dims.latent_channels)
        return self._stream(vae.decoder, latents_FChw)

    def _stream(self, decoder: Decoder, latents_FChw: Tensor) -> Iterator[Tensor]:
        frames, *size = self.dims.patch
        tile = self.tile[1] // size[0], self.tile[2] // size[1]
        for chunk_FChw in latents_FChw.split(self.chunk_frames):
            # A clip that crossed two chunks would decode to other pixels than in the original.
            for part_FChw in chunk_FChw.split(self.tile[0] // frames):
                z = (part_FChw.float() / SCALE).transpose(0, 1)[None]
                # Gradients are off here and not around the loop: a generator would hand the setting
                # to whoever asks for its frames.
                with torch.no_grad():
                    x = tiled(decoder, z.to(decoder.cls_token), tile, self.tile[1:])
                yield from x[0].transpose(0, 1).float().clamp(-1, 1).split(frames)

    def _load(self) -> ViTNetwork:
        dtype, cpu = getattr(torch, self.dtype), torch.device("cpu")
        if self.weights == "random":
            vae = seeded(lambda: ViTNetwork(self.dims).to(dtype))
        else:
            folder = self._weights_folder()
            # Without memory of its own: every weight is replaced by one of the file.
            with torch.device("meta"):
                vae = ViTNetwork(self.dims)
            load_weights(vae, folder, ema=False, dtype=dtype, device=cpu)
        # Without encoding, drop the encoder: half of the weights.
        if not self.encodes:
            del vae.encoder
        return vae.eval().requires_grad_(False)


class ViTCodec(ViTVae):
    """MAGI-1's VAE with its encoder, for videos that continue a picture or a video."""

    encodes = True

    def encode(self, frames_T3HW: Tensor) -> Tensor:
        """Return the mode of the latents [1 or T / 4, C, h, w] fp32 of a picture or of frames.

        frames_T3HW: 1 frame, or a multiple of 4; pixels in -1..1.
        """
        # Tiles of latents are smaller than tiles of pixels by the size of a patch.
        vae, (_, *size) = self._loaded(frames_T3HW.device), self.dims.patch
        tile = self.tile[1] // size[0], self.tile[2] // size[1]
        x_13THW = frames_T3HW.transpose(0, 1)[None].to(vae.encoder.cls_token)
        with torch.no_grad():
            # Every clip in time is encoded alone, as the decoder decodes it. Tiles are chained, as
            # in the released encoder.
            parts = [
                tiled(vae.encoder, part, self.tile[1:], tile, chained=True)
                for part in x_13THW.split(self.tile[0], dim=2)
            ]
        return torch.cat(parts, dim=2)[0].transpose(0, 1).float() * SCALE
