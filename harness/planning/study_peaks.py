"""Counts the peaks of the published 33-method study from what each of its methods stored.

Source  arXiv 2603.27469 and its program. `published.yaml` describes the methods and this module
        counts their bytes. No peak is looked up. Only the size of a decode, and the temporary
        tensors of one of the three code trees, are measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from harness.models.preset import VideoModel
from harness.planning.live_bytes import allocated
from harness.planning.model_needs import network
from harness.prompts.suite import pixel_frames
from harness.system.paths import shipped

FILE = shipped("harness.planning", "published.yaml")
INDEX_BYTES = 8  # int64, per token of a tier
OUTLIER_BYTES = (4, 2)  # int32 index and fp16 value
SPAN_BYTES = 16  # position of a pooled chunk, in the study's own count of bytes


@dataclass(frozen=True)
class Tier:
    """Tokens stored in one format. bits: width of each plane of codes. zero: has zero points."""

    bits: Sequence[int] = ()
    value_bits: Sequence[int] | None = None
    zero: bool = False


@dataclass(frozen=True)
class Split:
    """How tokens are divided into tiers.

    share: of the first tier; for `tail` and `positions`.
    recent, important, retained: of the chunks; for `chunks`.
    """

    by: Literal["whole", "tail", "positions", "chunks"] = "whole"
    share: float = 1.0
    recent: float = 1.0
    important: float = 0.0
    retained: float | None = None


@dataclass(frozen=True)
class Outliers:
    """Values stored separately: a share of all keys and values, or of the last tier's keys."""

    share: float = 0.0
    of: Literal["all", "old_keys"] = "all"


@dataclass(frozen=True)
class Stored:
    """One entry of `methods` in `published.yaml`: what the method stored.

    tree: the code tree that ran it.
    mask: one byte per token, which marks the tokens of a tier.
    pooled: chunks outside all tiers are stored as one token each.
    rotated: one such tensor more, for the rotation (see `Tree.transient`).
    exact_frames: frames that stay in the BF16 buffer.
    reuse: residuals of the last chunk are kept.
    """

    tree: str
    tiers: Sequence[Tier] = ()
    split: Split = field(default_factory=Split)
    mask: bool = False
    outliers: Outliers = field(default_factory=Outliers)
    pooled: bool = False
    rotated: bool = False
    exact_frames: int = 0
    reuse: bool = False
    suites: Sequence[str] = ("moviegen", "storyeval")


@dataclass(frozen=True)
class Tree:
    """One entry of `trees`: how one of the study's three diverged programs stored codes.

    code_bytes: bytes of one code, whatever its bits.
    beside_exact: a BF16 buffer of the whole capacity is allocated next to the codes until decoding.
    transient: BF16 tensors of one layer's quantized history that are live at the peak of denoising;
        read off a published run.
    """

    code_bytes: int
    beside_exact: bool = False
    transient: int = 0


@dataclass(frozen=True)
class Catalogue:
    """The content of `published.yaml`."""

    group: int
    decode_bytes: int
    vae_parameters: int
    trees: dict[str, Tree]
    budgets: dict[str, Sequence[float]]
    methods: dict[str, Stored]


@dataclass(frozen=True)
class Row:
    """One method on one suite: history and peak in bytes, and the ratio by the study's count."""

    suite: str
    method: str
    tree: str
    phase: str
    kv_bytes: int
    peak_bytes: int
    ratio: float


@dataclass(frozen=True)
class Geometry:
    """Sizes of the model and the video, which all rows share."""

    layers: int
    width: int
    frame_tokens: int
    frames: int
    base_bytes: int
    previous_bytes: int
    reuse_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens that the cache holds: those of the whole video."""
        return self.frames * self.frame_tokens

    @property
    def bf16_bytes(self) -> int:
        """Bytes of the whole video's keys and values, two bytes each."""
        return 4 * self.width * self.tokens * self.layers


def catalogue() -> Catalogue:
    """Read the bundled descriptions of the study's methods."""
    raw: dict[str, Any] = yaml.safe_load(FILE.read_text())
    trees = {name: Tree(**entry) for name, entry in raw.pop("trees").items()}
    methods = {}
    for name, entry in raw.pop("methods").items():
        parts: dict[str, Any] = {"tiers": [Tier(**tier) for tier in entry.get("tiers", ())]}
        for part, kind in (("split", Split), ("outliers", Outliers)):
            if part in entry:
                parts[part] = kind(**entry[part])
        methods[name] = Stored(**{**entry, **parts})
    return Catalogue(**raw, trees=trees, methods=methods)


def geometry(model: VideoModel, num_frames: int, vae_parameters: int) -> Geometry:
    """Count the sizes of the model; weights, prompt and latents are resident in every phase."""
    # Without the text encoder: on the study's card it was streamed from the host.
    # The study ran in BF16, two bytes a value; its decoded videos were fp32.
    net, spec = network(model), model.spec
    _, channels, height, width = model.latent_shape(1)
    latent_bytes = 2 * channels * height * width
    text: Any = model.text
    rows_bytes = 2 * text.length * model.dims.text_dim
    base = net.weight_bytes + 2 * vae_parameters + net.text_kv_bytes + rows_bytes
    # A latent value stands for 8 x 8 pixels of three colours.
    video_bytes = 4 * 3 * (8 * height) * (8 * width) * pixel_frames(num_frames)
    chunk = spec.chunk_frames
    return Geometry(
        layers=spec.num_layers,
        width=spec.kv_heads * spec.head_dim,
        frame_tokens=spec.tokens_per_frame,
        frames=num_frames,
        base_bytes=base + 2 * num_frames * latent_bytes,  # noise and output
        previous_bytes=video_bytes + num_frames * latent_bytes,
        # Two hidden states and one output of a chunk.
        reuse_bytes=2 * chunk * spec.tokens_per_frame * 2 * model.dims.dim + chunk * latent_bytes,
    )


def row(name: str, suite: str, book: Catalogue, shape: Geometry) -> Row:
    """Count history, peak and ratio of one method on one suite."""
    method = book.methods[name]
    tree = book.trees[method.tree]
    held, packed = 0, 0
    for layer in range(shape.layers):
        budget = book.budgets[suite][layer]
        for size, nominal in _layer(method, tree, book.group, shape, budget):
            held += size
            packed += nominal
    if not method.tiers:  # nothing is quantized: the BF16 buffer is the history
        held = packed = shape.bf16_bytes
    extra = shape.previous_bytes + (shape.reuse_bytes if method.reuse else 0)
    # A tree with a BF16 buffer freed its history before decoding; the others kept it.
    decode = book.decode_bytes + (0 if tree.beside_exact and method.tiers else held)
    denoise = held
    if tree.beside_exact and method.tiers:
        quantized = shape.tokens - method.exact_frames * shape.frame_tokens
        passing = (tree.transient + method.rotated) * 2 * quantized * shape.width
        denoise += shape.bf16_bytes + passing
    return Row(
        suite=suite,
        method=name,
        tree=method.tree,
        phase="denoise" if denoise > decode else "decode",
        kv_bytes=held,
        # The two phases share everything else.
        peak_bytes=shape.base_bytes + extra + max(denoise, decode),
        ratio=shape.bf16_bytes / packed,
    )


def _layer(
    method: Stored, tree: Tree, group: int, shape: Geometry, budget: float
) -> Iterator[tuple[int, int]]:
    """Yield the held bytes, and the bytes by the study's own count, of each part of a layer."""
    # Part by part, since the allocator rounds up every tensor. The study's own count does not.
    tokens, dropped = _tokens(method, shape, budget)
    for tier, number in zip(method.tiers, tokens, strict=True):
        if number:
            yield from _tier(tier, number, tree.code_bytes, group, shape.width)
            # Tokens that were gathered into a tier need their places.
            if method.split.by != "whole":
                yield allocated(INDEX_BYTES * number), INDEX_BYTES * number
    if method.mask:
        yield allocated(shape.tokens), shape.tokens
    if method.pooled:
        yield 2 * allocated(2 * shape.width * dropped), (4 * shape.width + SPAN_BYTES) * dropped
    if method.outliers.share:
        old = method.outliers.of == "old_keys"
        # Of the last tier's keys; or of all keys and values, which are one tier then.
        values = shape.width * (tokens[-1] if old else 2 * tokens[0])
        count = round(method.outliers.share * values)
        yield sum(allocated(size * count) for size in OUTLIER_BYTES), sum(OUTLIER_BYTES) * count
    if method.exact_frames:  # stored in the BF16 buffer, so they take no further memory
        yield 0, 4 * shape.width * method.exact_frames * shape.frame_tokens


def _tier(
    tier: Tier, tokens: int, code_bytes: int, group: int, width: int
) -> Iterator[tuple[int, int]]:
    """Yield the bytes of codes, then of fp16 metadata, for keys and values."""
    # The program padded every set of tokens to whole groups, and stored codes unpacked. Its own
    # count of bytes is that of packed codes.
    padded = -(-tokens // group) * group
    # Metadata: one value per group of tokens and channel, or one per token.
    grouped, each = 2 * width * padded // group, 2 * padded
    value_bits = tier.bits if tier.value_bits is None else tier.value_bits
    for bits in (*tier.bits, *value_bits):
        yield allocated(padded * width * code_bytes), padded * width * bits // 8
    # With zero points: one scale and one zero point each, per group for keys, per token for values.
    metadata = [grouped, grouped, each, each] if tier.zero else 2 * len(tier.bits) * [grouped]
    for size in metadata:
        yield allocated(size), size


def _tokens(method: Stored, shape: Geometry, budget: float) -> tuple[list[int], int]:
    """Return the tokens of each tier, and the number of chunks (frames) in none of them."""
    split, capacity = method.split, shape.tokens
    if split.by == "tail":
        first = round(split.share * capacity)
        return [first, capacity - first], 0
    # The same positions in every frame.
    if split.by == "positions":
        first = round(split.share * shape.frame_tokens) * shape.frames
        return [first, capacity - first], 0
    if split.by == "chunks":
        # Python's round takes halves to the even neighbour. A budget above 1 cannot give a layer
        # more chunks than there are.
        recent = max(1, round(min(split.recent * budget, 1) * shape.frames))
        old = shape.frames - recent
        important = 0
        if split.important:
            important = min(old, max(1, round(split.important * budget * old)))
        retained = old - important
        if split.retained is not None:
            retained = min(retained, max(1, round(split.retained * budget * retained)))
        counts = (recent, important, retained)
        return [shape.frame_tokens * n for n in counts], shape.frames - sum(counts)
    whole = capacity - method.exact_frames * shape.frame_tokens
    return [whole] * len(method.tiers), 0
