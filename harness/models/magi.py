"""The causal diffusion transformer of MAGI-1: one chunk of latent frames in, its flow out.

Written from the published architecture (arXiv 2505.13211) and the released code. Module names
follow the checkpoints, so that their keys load without renaming. As with Wan, the network does not
know how history is stored: it passes queries, keys and values, without rotary positions, to a cache
session and gets the output of attention back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.cache.positions import BandedRope
from harness.models.linear import Conv3d, Linear, in_fp32
from harness.models.network import VideoNetwork
from harness.models.wan import per_frame, unpatchify
from harness.sampling.network import Attends, TextKV, TimeEmbedding

if TYPE_CHECKING:
    from harness.cache.layer import Plan


EPS = 1e-6  # in all norms; with another value the recordings of the original differ
WAVES = 256  # width of the sinusoid of the time
PIECES = 8  # pieces in which the outputs of self- and cross-attention alternate, for any heads
# Weights that the released code keeps or promotes to fp32, by parts of their names.
FP32 = (
    "x_embedder.",
    "t_embedder.",
    "y_embedder.",
    "rope.",
    "final_linear.",
    "final_layernorm.",
    "_post_norm.",
    ".q_layernorm.",
    ".k_layernorm.",
)


@dataclass(frozen=True)
class MagiDims:
    """Sizes of the network; the defaults are those of MAGI-1 4.5B.

    num_kv_heads: heads of keys and values, in self-attention and in cross-attention.
    latent_channels: channels of the latents and of the flow.
    text_dim, text_rows: width and number of rows of the null table.
    gated_mlp: SiLU(first half) * second half instead of GELU.
    doubles_channels: the patch embedding reads every channel twice, and the head predicts twice as
        many, of which the first half is the flow.
    input_scale: factor of the latents before the patch embedding; the flow is divided by it.

    The 24B networks have the last three: gated, doubled, and 0.1.

    Raises  ValueError: heads or widths that do not divide.
    """

    dim: int = 3072
    num_layers: int = 34
    num_heads: int = 24
    num_kv_heads: int = 8
    head_dim: int = 128
    ffn_dim: int = 12288
    latent_channels: int = 16
    text_dim: int = 4096
    text_rows: int = 800
    gated_mlp: bool = False
    doubles_channels: bool = False
    input_scale: float = 1.0

    def __post_init__(self) -> None:
        # Query heads share heads of keys in groups of one size.
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"dims.num_kv_heads={self.num_kv_heads} does not divide "
                f"dims.num_heads={self.num_heads}: choose a divisor"
            )
        # A head width that 8 divides has whole rotary bands and whole pieces (`PIECES`); the
        # condition is a quarter as wide as the network.
        if self.head_dim % 8 or self.dim % 4:
            raise ValueError(
                f"dims.head_dim={self.head_dim} dims.dim={self.dim}: give a multiple of 8 and a "
                "multiple of 4"
            )

    @property
    def cond_dim(self) -> int:
        """Width of the condition."""
        return self.dim // 4

    @property
    def num_bands(self) -> int:
        """Rotary bands of each axis."""
        return self.head_dim // 8

    @property
    def token_weights(self) -> int:
        """Weights of a layer's matrices that every token of the video is multiplied by."""
        heads, kv = (n * self.head_dim for n in (self.num_heads, self.num_kv_heads))
        # Queries for video and text, keys, values; the projection of both attentions; the MLP. Keys
        # and values of the text are made once per video, whatever its length.
        attention = self.dim * (2 * heads + 2 * kv + 2 * heads)
        return attention + (3 if self.gated_mlp else 2) * self.dim * self.ffn_dim

    def network(self, fps: int) -> Magi:
        """Build the network; its weights come later."""
        # Unlike SkyReels-V2, MAGI-1 has no table of frame rates.
        return Magi(self)

    def seeded(self, fps: int, seed: int) -> Magi:
        """Build the network with untrained weights."""
        network = Magi(self)
        init_weights(network, seed)
        return network


class Magi(VideoNetwork):
    """Predicts the flow v = x0 - noise of a chunk of latent frames.

    The time runs from 0 (noise) to 1 (clean), x_t = t x0 + (1 - t) noise, so a step adds
    v (t_next - t).

    Every part casts its inputs to the dtype that the released code computes it in; the dtype of the
    network is that of the blocks' matrices.

    Shapes  x [B, F, C, h, w], t [B, F] in 0..1 -> flow [B, F, C, h, w] in the dtype of x.
    """

    first_block: ClassVar[str] = "Magi.videodit_blocks.layers.0"

    def __init__(self, dims: MagiDims) -> None:
        """Build the modules; weights come from a checkpoint or `init_weights`."""
        super().__init__()
        self.dims = dims
        patches = (2 if dims.doubles_channels else 1) * dims.latent_channels
        self.x_embedder = Conv3d(patches, dims.dim, (1, 2, 2), (1, 2, 2), bias=False)
        self.t_embedder = nn.ModuleDict(
            {
                "mlp": nn.Sequential(
                    Linear(WAVES, dims.cond_dim),
                    nn.SiLU(),
                    Linear(dims.cond_dim, dims.cond_dim),
                )
            }
        )
        self.y_embedder = TextEmbedder(dims)
        # The bands are learned, so they are a parameter of the checkpoint and not a constant.
        self.rope = nn.ParameterDict({"bands": default_bands(dims.num_bands)})
        self.videodit_blocks = nn.ModuleDict(
            {
                "layers": nn.ModuleList(Layer(dims, layer) for layer in range(dims.num_layers)),
                "final_layernorm": OnePlusNorm(dims.dim),
            }
        )
        self.final_linear = nn.ModuleDict({"linear": Linear(dims.dim, 4 * patches, bias=False)})

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.x_embedder.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the blocks' matrices."""
        # Not that of the first weights: the embedders stay fp32 (see FP32).
        return self._layers()[0].self_attention.linear_proj.weight.dtype

    @property
    def fp32_weights(self) -> set[str]:
        """Names of the weights that are loaded in fp32, whatever the dtype of the network."""
        return {name for name in self.state_dict() if any(part in name for part in FP32)}

    @property
    def null_text(self) -> Tensor:
        """Table of the null text [text_rows, E]; see `null_rows` of the special tokens."""
        return self.y_embedder.null_caption_embedding

    def positions(self, grid: tuple[int, int]) -> BandedRope:
        """Return the rotary positions by frame, row and column of a grid of patches."""
        return BandedRope(self.rope["bands"], grid, self.device)

    def text_kv(self, text_BTE: Tensor, is_kept: bool = True) -> TextKV:
        """Return the keys and values of cross-attention, and the text's part of the condition.

        text_BTE: rows of the text without padding, as cross-attention has no mask.
        is_kept: False for the passes of guidance that drop the text.
        """
        y = self.y_embedder
        tokens = in_fp32(y.y_proj_xattn, text_BTE).to(self.dtype)
        # The condition does not depend on the words of the text: two rows of the null table stand
        # for "with text" and "without text".
        null_row = self.null_text[-2 if is_kept else -1]
        condition = in_fp32(y.y_proj_adaln, null_row.expand(text_BTE.shape[0], -1))
        return TextKV([x.self_attention.text_kv(tokens) for x in self._layers()], condition)

    def embed(self, x_BFChw: Tensor) -> Tensor:
        """Return the tokens of a chunk [B, F * T, dim] before the first layer."""
        # The embedder's weights are fp32, and so is its arithmetic, as in the released code.
        x = x_BFChw.float() * self.dims.input_scale
        if self.dims.doubles_channels:
            x = torch.cat([x, x], dim=2)
        patches_BDFhw = in_fp32(self.x_embedder, x.transpose(1, 2))
        return patches_BDFhw.flatten(2).transpose(1, 2).to(self.dtype)

    def embed_time(self, t_BF: Tensor, pace: float | None = None) -> TimeEmbedding:
        """Return the embedding of every frame's time, fp32.

        pace: step size, for distilled networks: half the number of steps of a chunk, or with 12
            steps 8 / interval. None for the base network.
        """
        mlp = self.t_embedder["mlp"]
        embedded_BFC = in_fp32(mlp, sinusoid(t_BF))
        if pace is not None:
            embedded_BFC = embedded_BFC + in_fp32(mlp, sinusoid(torch.full_like(t_BF, pace)))
        # Every block makes its gates itself, so policies that watch the modulation get the
        # embedding again.
        return TimeEmbedding(embedded_BFC, embedded_BFC[:, :, None])

    def condition(self, time: TimeEmbedding, text_kv: TextKV) -> Tensor:
        """Return the condition of every frame [B, F, cond_dim] fp32, from which gates are made."""
        assert text_kv.condition is not None
        return time.embedded + text_kv.condition[:, None]

    def modulated(self, tokens: Tensor, time: TimeEmbedding) -> Tensor:
        """Return the input of the first layer's attention [B, F * T, dim]."""
        # The time is not part of it: the gates act on the outputs of attention and MLP only.
        normed: Tensor = self._layers()[0].self_attention.linear_qkv.layer_norm(tokens)
        return normed

    def run(
        self, tokens: Tensor, time: TimeEmbedding, text_kv: TextKV, session: Attends, plan: Plan
    ) -> Tensor:
        """Run all layers: tokens [B, F * T, dim] -> the same shape."""
        # Summed in fp32 and rounded once, for all layers.
        condition_BFC = self.condition(time, text_kv).to(self.dtype)
        for layer, kv in zip(self._layers(), text_kv.layers, strict=True):
            tokens = layer(tokens, condition_BFC, kv, session, plan)
        return tokens

    def finish(self, tokens: Tensor, time: TimeEmbedding, like_BFChw: Tensor) -> Tensor:
        """Return the flow, in shape and dtype of `like`, from the tokens after the last layer."""
        normed = self.videodit_blocks["final_layernorm"](tokens)
        patches = in_fp32(self.final_linear["linear"], normed)
        # With doubled channels the flow is the first half of what the head predicts.
        flow = unpatchify(patches, like_BFChw)[:, :, : self.dims.latent_channels]
        return (flow / self.dims.input_scale).to(like_BFChw.dtype)

    def _layers(self) -> list[Layer]:
        # For their type, which `nn.ModuleDict` and `nn.ModuleList` hide.
        layers = self.videodit_blocks["layers"]
        assert isinstance(layers, nn.ModuleList)
        return [layer for layer in layers if isinstance(layer, Layer)]


class TextEmbedder(nn.Module):
    """The null table, and the projections of text to tokens and to the condition."""

    def __init__(self, dims: MagiDims) -> None:
        super().__init__()
        self.null_caption_embedding = nn.Parameter(torch.zeros(dims.text_rows, dims.text_dim))
        self.y_proj_xattn = nn.Sequential(Linear(dims.text_dim, dims.dim), nn.SiLU())
        self.y_proj_adaln = nn.Sequential(Linear(dims.text_dim, dims.cond_dim))


class Layer(nn.Module):
    """Attention and MLP; a gate and a norm follow each before it is added."""

    def __init__(self, dims: MagiDims, layer: int) -> None:
        """Build the modules of layer `layer`."""
        super().__init__()
        self.ada_modulate_layer = Gates(dims)
        self.self_attention = Attention(dims, layer)
        self.self_attn_post_norm = OnePlusNorm(dims.dim)
        self.mlp = MLP(dims)
        self.mlp_post_norm = OnePlusNorm(dims.dim)

    def forward(
        self,
        x: Tensor,
        condition_BFC: Tensor,
        text_kv: tuple[Tensor, Tensor],
        session: Attends,
        plan: Plan,
    ) -> Tensor:
        """Run the layer: x [B, F * T, dim] -> the same shape."""
        gate1, gate2 = self.ada_modulate_layer(condition_BFC).chunk(2, dim=-1)
        # Compute gate, norm and sum in fp32 and round once, as the released code does.
        y = self.self_attention(x, text_kv, session, plan)
        x = (x + self.self_attn_post_norm(per_frame(y.float(), gate1))).to(x.dtype)
        y = self.mlp(x)
        out: Tensor = x + self.mlp_post_norm(per_frame(y.float(), gate2))
        return out.to(x.dtype)


class Gates(nn.Module):
    """Gates of attention and MLP, each channel in -1..1."""

    def __init__(self, dims: MagiDims) -> None:
        super().__init__()
        self.proj = nn.Sequential(Linear(dims.cond_dim, 2 * dims.dim))

    def forward(self, condition_BFC: Tensor) -> Tensor:
        """Return both gates of every frame, one after the other: -> [B, F, 2 * dim]."""
        # tanh is computed in fp32, whatever the dtype of the gates.
        gates: Tensor = self.proj(F.silu(condition_BFC)).float().tanh()
        return gates.to(condition_BFC.dtype)


class Attention(nn.Module):
    """Self-attention through the session and cross-attention to the text, side by side."""

    def __init__(self, dims: MagiDims, layer: int) -> None:
        """Build the projections of layer `layer`, and the norms of queries and keys."""
        super().__init__()
        self.layer, self.dims = layer, dims
        self.linear_qkv = QKV(dims)
        kv = 2 * dims.num_kv_heads * dims.head_dim
        self.linear_kv_xattn = Linear(dims.dim, kv, bias=False)
        self.linear_proj = Linear(2 * dims.num_heads * dims.head_dim, dims.dim, bias=False)
        self.q_layernorm, self.k_layernorm = (OnePlusNorm(dims.head_dim) for _ in "qk")
        self.q_layernorm_xattn, self.k_layernorm_xattn = (OnePlusNorm(dims.head_dim) for _ in "qk")

    def text_kv(self, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed keys and the values of the text, each [B, G, T, D]."""
        kv_BTGE = self.linear_kv_xattn(tokens_BTD).unflatten(2, (self.dims.num_kv_heads, -1))
        # Key and value of one head lie next to each other.
        k, v = kv_BTGE.transpose(1, 2).chunk(2, dim=-1)
        return self.k_layernorm_xattn(k).to(v.dtype), v

    def forward(
        self, x: Tensor, text_kv: tuple[Tensor, Tensor], session: Attends, plan: Plan
    ) -> Tensor:
        """Attend to history, chunk and text: x [B, T, dim] -> [B, T, dim] fp32."""
        dims = self.dims
        q, q_text, k, v = self.linear_qkv(x)
        q, k = self.q_layernorm(q).to(x.dtype), self.k_layernorm(k).to(x.dtype)
        of_chunk = session.attend(self.layer, q, k, v, plan)
        # Both attentions read the same normed input; neither sees the output of the other.
        # Queries that share a head of keys are more queries of it, as in `attend_grouped`.
        q_text = self.q_layernorm_xattn(q_text).to(x.dtype)
        q_text = q_text.unflatten(1, (dims.num_kv_heads, -1)).flatten(2, 3)
        of_text = F.scaled_dot_product_attention(q_text, *text_kv)
        of_text = of_text.unflatten(2, (-1, x.shape[1])).flatten(1, 2)
        # The weights of the projection expect both outputs cut into pieces that alternate.
        both = [
            y.transpose(1, 2).flatten(2).unflatten(2, (PIECES, -1)) for y in (of_chunk, of_text)
        ]
        return in_fp32(self.linear_proj, torch.stack(both, dim=3).flatten(2))


class QKV(nn.Module):
    """Norm of a layer's input, and the projections of self-attention and of the text's queries."""

    def __init__(self, dims: MagiDims) -> None:
        super().__init__()
        wide, narrow = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
        self.head_dim = dims.head_dim
        self.layer_norm = nn.LayerNorm(dims.dim, eps=EPS)
        self.q, self.qx = (Linear(dims.dim, wide, bias=False) for _ in range(2))
        self.k, self.v = (Linear(dims.dim, narrow, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return q and the text's q [B, H, T, D], and k and v [B, G, T, D]."""
        u = self.layer_norm(x)
        return tuple(
            projection(u).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q, self.qx, self.k, self.v)
        )


class MLP(nn.Module):
    """Norm and feed-forward: exact GELU, or gated by SiLU."""

    def __init__(self, dims: MagiDims) -> None:
        super().__init__()
        self.is_gated = dims.gated_mlp
        self.layer_norm = nn.LayerNorm(dims.dim, eps=EPS)
        hidden = (2 if dims.gated_mlp else 1) * dims.ffn_dim
        self.linear_fc1 = Linear(dims.dim, hidden, bias=False)
        self.linear_fc2 = Linear(dims.ffn_dim, dims.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the feed-forward of x [B, T, dim] -> the same shape."""
        y = self.linear_fc1(self.layer_norm(x))
        if self.is_gated:
            gate, up = y.chunk(2, dim=-1)
            y = F.silu(gate) * up
        else:
            # Not the tanh form, from which the recordings of the original differ.
            y = F.gelu(y)
        out: Tensor = self.linear_fc2(y)
        return out


class OnePlusNorm(nn.Module):
    """Layer norm in fp32 with the factor 1 + weight."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize: x [..., dim] -> the same shape, fp32."""
        weight = (1 + self.weight).float()
        return F.layer_norm(x.float(), x.shape[-1:], weight, self.bias.float(), EPS)


def sinusoid(t: Tensor) -> Tensor:
    """Return sinusoidal embeddings of 1000 t [...] -> [..., WAVES] fp32, cosines first."""
    # Every factor is rounded to fp32 in this order, as in the released code: the arguments reach
    # 32000, and other roundings change the flow by up to 1e-4.
    angles = 1000 * (t.float()[..., None] * frequencies(t.device))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def frequencies(device: torch.device) -> Tensor:
    """Return the frequencies of `sinusoid` [WAVES / 2] fp32, in radians per unit of time."""
    # As in the released code. Processors differ in the last bit of a few of these exponentials.
    k = torch.arange(WAVES // 2, dtype=torch.float32, device=device)
    return torch.exp(-math.log(10000) * k / (WAVES // 2))


def default_bands(num_bands: int) -> Tensor:
    """Return the rotary bands before training [num_bands] fp32, in radians per unit of position."""
    return 10000.0 ** (-torch.arange(num_bands, dtype=torch.float32) / num_bands)


def init_weights(network: Magi, seed: int) -> None:
    """Fill a small network with seeded weights; it is untrained, but its video depends on history.

    Matrices are N(0, 1 / fan-in), the null table N(0, 1), and other vectors N(0, 0.1) around their
    neutral value.
    """
    # Draw in the order of the state dict, on the CPU: the same weights for every device.
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            draw = torch.randn(tensor.shape, generator=generator)
            if name == "rope.bands":
                draw = default_bands(network.dims.num_bands)
            elif name.endswith(".layer_norm.weight"):
                draw = 1 + 0.1 * draw
            elif name.endswith(("q_layernorm.weight", "k_layernorm.weight")):
                # The factor is 1 + weight: queries and keys 1.7 times as large, as in Wan's small
                # networks, so that attention is selective.
                draw = 0.7 + 0.1 * draw
            elif tensor.dim() == 1:
                draw *= 0.1
            elif "null" not in name:
                draw /= tensor[0].numel() ** 0.5
            tensor.copy_(draw)
