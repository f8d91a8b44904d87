"""The causal Wan diffusion transformer: the network of the Self-Forcing family and SkyReels-V2.

Written from the published architecture of Wan2.1-T2V (arXiv 2503.20314) in its causal,
self-forcing form (arXiv 2506.08009), and with the frame rate of SkyReels-V2 (arXiv 2504.13074).
Module names follow the native checkpoints, so that their keys load without renaming. The network
does not know how history is stored: it passes queries, keys and values, without rotary positions,
to a cache session and gets the output of attention back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.cache.positions import Rope
from harness.models.linear import Conv3d, Linear, in_fp32
from harness.models.network import VideoNetwork
from harness.sampling.network import Attends, TextKV, TimeEmbedding

if TYPE_CHECKING:
    from harness.cache.layer import Plan


CLOCK_WAVES = 8  # of the absolute position of a frame; the shortest spans a quarter of the video


@dataclass(frozen=True)
class WanDims:
    """Sizes of the network; the defaults are those of Wan2.1-T2V-1.3B.

    place_waves: number of waves per side in an absolute position embedding of patches; 0 for
        networks without one.
    clock_frames: number of frames with an absolute position embedding of their own; later frames
        have that of the last one. 0 for networks without one.
    fps_rows: rows of the table of frame rates: 2 in SkyReels-V2, 0 for networks without a table.

    Raises  ValueError: a width that does not split into heads of even width, other `fps_rows`.
    """

    dim: int = 1536
    num_layers: int = 30
    num_heads: int = 12
    ffn_dim: int = 8960
    latent_channels: int = 16
    text_dim: int = 4096
    freq_dim: int = 256
    place_waves: int = 0
    clock_frames: int = 0
    fps_rows: int = 0

    def __post_init__(self) -> None:
        # Rotary positions turn channels of a head in pairs.
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(
                f"dims.dim={self.dim} does not split into {self.num_heads} heads of even width"
            )
        if self.fps_rows not in (0, 2):
            raise ValueError(f"dims.fps_rows={self.fps_rows}: give 2, or 0 for a network without")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def num_kv_heads(self) -> int | None:
        """Heads of keys and values: None, as many as of queries."""
        return None

    @property
    def token_weights(self) -> int:
        """Weights of a block's matrices that every token of the video is multiplied by."""
        # Queries, keys, values and output of self-attention; queries and output to the text, whose
        # keys and values are made once per video.
        return 6 * self.dim**2 + 2 * self.dim * self.ffn_dim

    def network(self, fps: int) -> Wan:
        """Build the network for a frame rate; its weights come later."""
        return Wan(self, fps)

    def seeded(self, fps: int, seed: int) -> Wan:
        """Build the network with untrained weights."""
        network = Wan(self, fps)
        init_weights(network, seed)
        return network


class Wan(VideoNetwork):
    """Predicts the flow v = noise - x0 of a chunk of latent frames.

    Shapes  x [B, F, C, h, w], t [B, F] in 0..1000 -> flow [B, F, C, h, w].
    """

    first_block: ClassVar[str] = "Wan.blocks.0"

    def __init__(self, dims: WanDims, fps: int = 16) -> None:
        """Build the modules; weights come from a checkpoint or `init_weights`.

        fps: frame rate of the videos, used if the dims have a table of frame rates.
        """
        super().__init__()
        self.dims = dims
        self.fps_row = 0 if fps == 16 else 1  # as in SkyReels-V2: row 1 is for every other rate
        d = dims.dim
        # Optional parts exist only where they are set: a checkpoint must match all names exactly.
        self.patch_embedding = Conv3d(dims.latent_channels, d, (1, 2, 2), (1, 2, 2))
        self.text_embedding = nn.Sequential(
            Linear(dims.text_dim, d), nn.GELU(approximate="tanh"), Linear(d, d)
        )
        self.time_embedding = nn.Sequential(Linear(dims.freq_dim, d), nn.SiLU(), Linear(d, d))
        self.time_projection = nn.Sequential(nn.SiLU(), Linear(d, 6 * d))
        if dims.fps_rows:
            self.fps_embedding = nn.Embedding(dims.fps_rows, d)
            self.fps_projection = nn.Sequential(Linear(d, d), nn.SiLU(), Linear(d, 6 * d))
        # The published networks have none: rotary positions are relative, and they learn absolute
        # ones from the noise, which takes more training than a small model gets.
        if dims.place_waves:
            self.place_embedding = Linear(4 * dims.place_waves, d)
        # Rotary positions do not tell the network how late in the video a frame is. Prompts with
        # "first ... then ..." need that.
        if dims.clock_frames:
            self.clock_embedding = Linear(2 * CLOCK_WAVES, d)
        self.blocks = nn.ModuleList(Block(dims, layer) for layer in range(dims.num_layers))
        self.head = Head(dims)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.head.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.head.head.weight.dtype

    def positions(self, grid: tuple[int, int]) -> Rope:
        """Return the rotary positions by frame, row and column of a grid of patches."""
        return Rope(self.dims.head_dim, grid, self.device)

    def text_kv(self, text_BTE: Tensor) -> TextKV:
        """Return the keys and values of cross-attention for every layer.

        They depend only on the prompt, so one computation serves all passes of a video.

        text_BTE: rows of the prompt, padded with zero rows to full length.
        """
        # Padding stays: cross-attention has no mask and attends to it too.
        context = self.text_embedding(text_BTE)
        return TextKV([block.cross_attn.text_kv(context) for block in self._blocks()])

    def embed(self, x_BFChw: Tensor) -> Tensor:
        """Return the tokens of a chunk [B, F * T, dim] before the first block."""
        patches_BDFhw = self.patch_embedding(x_BFChw.transpose(1, 2))
        tokens: Tensor = patches_BDFhw.flatten(2).transpose(1, 2)
        if self.dims.place_waves:
            # Sines and cosines of row and column of each patch [rows * columns, 4 * place_waves].
            h, w = patches_BDFhw.shape[3:]
            rows, columns = (waves(torch.arange(n), n, self.dims.place_waves) for n in (h, w))
            grid = rows[:, None].expand(-1, w, -1), columns[None].expand(h, -1, -1)
            places = torch.cat(grid, dim=2).flatten(0, 1).to(tokens)
            tokens = tokens + self.place_embedding(places).repeat(x_BFChw.shape[1], 1)
        return tokens

    def embed_time(self, t_BF: Tensor, pace: float | None = None) -> TimeEmbedding:
        """Return the embedding of every frame's time, and the modulation of the blocks."""
        # The waves are built in fp64, since their arguments reach 1000 radians.
        times = sinusoid(t_BF, self.dims.freq_dim).to(self.dtype)
        if not self.dims.fps_rows:
            e_BFD = self.time_embedding(times)
            return TimeEmbedding(e_BFD, self.time_projection(e_BFD).unflatten(2, (6, -1)))
        # SkyReels-V2 computes everything about the time in fp32. Reuse policies sum up small
        # changes of the modulation, which 16 bits would round away.
        e_BFD = in_fp32(self.time_embedding, times)
        e6 = in_fp32(self.time_projection, e_BFD)
        # The frame rate is part of the blocks' modulation only; the head does not get it.
        e6 = e6 + in_fp32(self.fps_projection, self.fps_embedding.weight[self.fps_row])
        return TimeEmbedding(e_BFD, e6.unflatten(2, (6, -1)))

    def modulated(self, tokens: Tensor, time: TimeEmbedding) -> Tensor:
        """Return the input of the first block's attention [B, F * T, dim]."""
        first = self._blocks()[0]
        shift, scale, *_ = (first.modulation + time.modulation.to(tokens.dtype)).unbind(2)
        return modulate(tokens, shift, scale)

    def run(
        self, tokens: Tensor, time: TimeEmbedding, text_kv: TextKV, session: Attends, plan: Plan
    ) -> Tensor:
        """Run all blocks: tokens [B, F * T, dim] -> the same shape."""
        if self.dims.clock_frames:
            # Here and not in `embed`, which does not know where in the video its frames are.
            length = self.dims.clock_frames
            positions_F = torch.arange(plan.frames.start, plan.frames.stop).clamp(max=length - 1)
            clock_FD = self.clock_embedding(waves(positions_F, length, CLOCK_WAVES).to(tokens))
            each = tokens.shape[1] // len(plan.frames)
            tokens = tokens + clock_FD.repeat_interleave(each, dim=0)
        e6_BF6D = time.modulation.to(tokens.dtype)
        for block, kv in zip(self._blocks(), text_kv.layers, strict=True):
            tokens = block(tokens, e6_BF6D, kv, session, plan)
        return tokens

    def finish(self, tokens: Tensor, time: TimeEmbedding, like_BFChw: Tensor) -> Tensor:
        """Return the flow, in the shape of `like`, from the tokens after the last block."""
        return unpatchify(self.head(tokens, time.embedded.to(tokens.dtype)), like_BFChw)

    def _blocks(self) -> list[Block]:
        """Return the blocks with their type, which `nn.ModuleList` hides."""
        return [block for block in self.blocks if isinstance(block, Block)]


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, modulated frame by frame."""

    def __init__(self, dims: WanDims, layer: int) -> None:
        """Build the modules of layer `layer`."""
        super().__init__()
        d = dims.dim
        self.layer = layer
        # A shift, a scale and a gate of self-attention, then those of the feed-forward.
        self.modulation = nn.Parameter(torch.zeros(1, 6, d))
        self.self_attn = SelfAttention(dims)
        self.norm3 = nn.LayerNorm(d, eps=1e-6)
        self.cross_attn = CrossAttention(dims)
        self.ffn = nn.Sequential(
            Linear(d, dims.ffn_dim), nn.GELU(approximate="tanh"), Linear(dims.ffn_dim, d)
        )

    def forward(
        self,
        x: Tensor,
        e6_BF6D: Tensor,
        text_kv: tuple[Tensor, Tensor],
        session: Attends,
        plan: Plan,
    ) -> Tensor:
        """Run the block: x [B, F * T, dim] -> the same shape."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation + e6_BF6D).unbind(2)
        y = self.self_attn(modulate(x, shift1, scale1), self.layer, session, plan)
        x = x + per_frame(y, gate1)
        # Cross-attention has neither modulation nor gate, but a norm with weights of its own.
        x = x + self.cross_attn(self.norm3(x), text_kv)
        return x + per_frame(self.ffn(modulate(x, shift2, scale2)), gate2)


class Attention(nn.Module):
    """The projections that self-attention and cross-attention share."""

    def __init__(self, dims: WanDims) -> None:
        """Build the projections q, k, v, o and the norms of q and k."""
        super().__init__()
        d = dims.dim
        self.num_heads = dims.num_heads
        self.q, self.k, self.v, self.o = (Linear(d, d) for _ in range(4))
        # As in the checkpoints, one norm spans all heads together.
        self.norm_q, self.norm_k = RMSNorm(d), RMSNorm(d)

    def split(self, x: Tensor) -> Tensor:
        """Split channels into heads: [B, T, dim] -> [B, H, T, D]."""
        heads: Tensor = x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return heads

    def join(self, x_BHTD: Tensor) -> Tensor:
        """Join the heads and apply the output projection: [B, H, T, D] -> [B, T, dim]."""
        out: Tensor = self.o(x_BHTD.transpose(1, 2).flatten(2))
        return out


class SelfAttention(Attention):
    """Attention over history and the current chunk, computed by the cache session."""

    def forward(self, x: Tensor, layer: int, session: Attends, plan: Plan) -> Tensor:
        """Attend: x [B, T, dim] -> [B, T, dim]."""
        # Norm before the split, because one norm spans all heads. The session rotates q and k: it
        # alone knows the positions, which change while a key is stored.
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)
        q, k, v = self.split(q), self.split(k), self.split(v)
        return self.join(session.attend(layer, q, k, v, plan))


class CrossAttention(Attention):
    """Attention over the prompt, without positions, mask or gate."""

    def text_kv(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed keys and the values of the prompt, each [B, H, T, D]."""
        return self.split(self.norm_k(self.k(context))), self.split(self.v(context))

    def forward(self, x: Tensor, text_kv: tuple[Tensor, Tensor]) -> Tensor:
        """Attend: x [B, T, dim] -> [B, T, dim]."""
        q = self.split(self.norm_q(self.q(x)))
        return self.join(F.scaled_dot_product_attention(q, *text_kv))


class Head(nn.Module):
    """Final norm and projection to patches, modulated by the time embedding before projection."""

    def __init__(self, dims: WanDims) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 2, dims.dim))
        self.head = Linear(dims.dim, 4 * dims.latent_channels)

    def forward(self, x: Tensor, e_BFD: Tensor) -> Tensor:
        """Return patches: x [B, F * T, dim] -> [B, F * T, 4 C], ordered (row, column, channel)."""
        shift, scale = (self.modulation + e_BFD[:, :, None]).unbind(2)
        # All frames of a chunk may be at different times, so each has its own modulation.
        patches: Tensor = self.head(modulate(x, shift, scale))
        return patches


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in fp32 and cast back before the weight is applied."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize: x [..., dim] -> the same shape and dtype."""
        # Sums of squares overflow in fp16, and lose most of their digits in bf16.
        wide = x.float()
        inverse = (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (wide * inverse).to(x.dtype) * self.weight


def modulate(x: Tensor, shift_BFD: Tensor, scale_BFD: Tensor) -> Tensor:
    """Apply a layer norm without weights, then the scale and shift of each token's frame."""
    # The scale is learned around 0, so a modulation of zeros leaves the norm as it is.
    normed: Tensor = F.layer_norm(x, x.shape[-1:], eps=1e-6)
    normed = normed.unflatten(1, (shift_BFD.shape[1], -1))
    return (normed * (1 + scale_BFD[:, :, None]) + shift_BFD[:, :, None]).flatten(1, 2)


def per_frame(x: Tensor, gate_BFD: Tensor) -> Tensor:
    """Multiply x [B, F * T, dim] by the gate of each token's frame."""
    frames: Tensor = x.unflatten(1, (gate_BFD.shape[1], -1))
    return (frames * gate_BFD[:, :, None]).flatten(1, 2)


def unpatchify(patches: Tensor, like_BFChw: Tensor) -> Tensor:
    """Return latents [B, F, C, h, w], with sizes F, h and w of `like`, from their 2 x 2 patches.

    patches: [B, F * T, 4 C], ordered (row, column, channel).
    """
    # The order of a patch's numbers belongs to the trained weights of the head.
    num_frames, grid = like_BFChw.shape[1], (like_BFChw.shape[3] // 2, like_BFChw.shape[4] // 2)
    # [B, F, row, column, patch row, patch column, C] -> [B, F, C, h, w]
    apart = patches.unflatten(1, (num_frames, *grid)).unflatten(-1, (2, 2, -1))
    latents: Tensor = apart.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
    return latents


def sinusoid(t: Tensor, width: int) -> Tensor:
    """Return sinusoidal embeddings [...] -> [..., width] float64, cosines first, then sines."""
    angles = t.double()[..., None] * wave_frequencies(width).to(t.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def wave_frequencies(width: int) -> Tensor:
    """Return the frequencies of `sinusoid` [width / 2] float64, in radians per unit of time."""
    half = width // 2
    return 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)


def waves(positions_N: Tensor, length: int, num_waves: int) -> Tensor:
    """Encode positions 0 to `length` - 1 as sines and cosines [N, 2 * num_waves] float64."""
    # The first wave spans half a period over the length, so that no two positions are equal.
    k = torch.arange(1, num_waves + 1, dtype=torch.float64)
    angles = torch.pi * (positions_N + 0.5)[:, None] / length * k
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def init_weights(network: Wan, seed: int) -> None:
    """Fill a small network with seeded weights; it is untrained, but its video depends on history.

    Matrices are N(0, 1 / fan-in), biases and modulation N(0, 0.1). Exceptions make the video depend
    on the cache, and its steps on each other, like those of a trained network.
    """
    # Draw in fp32 on the CPU, in the order of the state dict: the same weights for every device.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            draw = torch.randn(tensor.shape, generator=generator)
            if tensor.dim() > 1 and "modulation" not in name:
                # The projection of the time is damped, or it would dominate the gates.
                draw *= (0.3 if "time_projection" in name else 1) / tensor[0].numel() ** 0.5
            elif "norm" in name and name.endswith("weight"):
                # Queries and keys are 1.7 times as large, so that attention is selective: logits
                # have a standard deviation near 3.
                draw = (1 + 0.1 * draw) * (1.7 if "self_attn" in name else 1)
            else:
                draw *= 0.1
            # Gates of attention and feed-forward near 1, or no block would change its input.
            if name.startswith("blocks") and "modulation" in name:
                draw[:, [2, 5]] += 1
            tensor.copy_(draw)
        # A network with frame rates runs many steps. With a smooth embedding of the time its
        # modulation changes by 0.5 to 15 % from step to step, about as in trained networks, so that
        # published thresholds of reuse policies skip a part of the steps.
        if network.dims.fps_rows:
            frequencies = wave_frequencies(network.dims.freq_dim).float()
            # Waves that turn faster than 0.003 radians per unit of time are damped.
            smooth = 3 * 0.003 / (0.003 + frequencies)
            network.get_parameter("time_embedding.0.weight").mul_(smooth.repeat(2))
