"""Counts what every method stores, from its own objects, for `ls methods` and docs/methods.md.

The numbers are for a 10 s video of `self_forcing` with the full history. The policy runs on
synthetic keys and values, chunk by chunk and layer by layer, on frames of few tokens. The
quantizers encode a frame of the true size. No attention is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from harness.api import POOL, CacheSpec, Exact, Method, VideoSize
from harness.api.method import tiers_of
from harness.cache.attention.auto import Auto
from harness.cache.attention.portable import Portable
from harness.cache.frame_layer import FrameLayer
from harness.cache.integration import CacheSession, Integration, Packed
from harness.cache.layer import Chunk, Context, Layer, Plan
from harness.cache.positions import Rope
from harness.cache.session import layer_of
from harness.cache.stored_bytes import frame_bytes, tier_bytes
from harness.cache.token_layer import TokenLayer
from harness.config.compose import Composer, composing, described, method_files
from harness.config.messages import construction_message
from harness.system.errors import UserError
from harness.system.notes import noted, only_ours
from harness.system.paths import CONF

CPU = torch.device("cpu")
DTYPE = torch.bfloat16
NUM_FRAMES = 42  # 10 s
TRUE = CacheSpec(num_layers=30, num_heads=12, head_dim=128, grid=(30, 52), chunk_frames=3)
# Policies run on small frames; `_at_true_size` converts what they keep.
FEW = replace(TRUE, num_heads=1, head_dim=32, grid=(6, 10))
LIKE = 0.9  # correlation of a synthetic frame with the one before it
_KNOWN: dict[str, int] = {}  # bytes per frame and layer of a tier, by its repr


@dataclass(frozen=True)
class Facts:
    """The facts about one method in a table.

    bits: stored bits per held value, with metadata, keys and values together.
    ratio: BF16 bytes of the whole video over stored bytes.
    varies: the stored bytes depend on the video, so `bits` and `ratio` are examples.
    integration: name of the integration; empty for the packed one.
    """

    name: str
    family: str
    source: str
    description: str
    bits: float
    ratio: float
    varies: bool = False
    integration: str = ""


@dataclass(frozen=True)
class Stored:
    """Stored bytes of one or more layers, and the number of values that they represent."""

    nbytes: float
    values: float

    def __add__(self, other: Stored) -> Stored:
        """Add bytes and values."""
        return Stored(self.nbytes + other.nbytes, self.values + other.values)


def facts(names: Sequence[str] | None = None, folder: Path | None = None) -> Iterator[Facts]:
    """Yield the facts of the named methods, or of all, one after the other.

    folder: the folder given with `--config-dir`.
    Raises  UserError, HydraException, ...: a file cannot be read or built.
    """
    files = method_files(folder)
    # What Hydra composes from our own files depends on these files alone, so it is noted too. A
    # user's files may read the environment.
    state: str | None = None
    if folder is None:
        ours = [path.read_bytes() for path in sorted(CONF.rglob("*.yaml"))]
        state = hashlib.sha256(b"".join(ours)).hexdigest()
    with composing(folder) as composer:
        for name in files if names is None else names:
            # Metrics and tracking change no fact, and composing them takes half of the time.
            words = [f"method={name}", "model=self_forcing", "model.window=null"]
            words += ["metrics=[]", "~track"]
            compose = partial(_composed, composer, words)
            config = noted("composed", [words, state], compose) if state else compose()
            try:
                yield _facts(name, described(files[name]), config)
            except InstantiationException as error:
                raise UserError(f"method {name}: {construction_message(error)}") from error
            except ValueError as error:
                raise UserError(f"method {name}: {error}") from error


def _composed(composer: Composer, words: list[str]) -> dict[str, Any]:
    """Return the settings of the method and of the integration."""
    config = composer.resolved(words)
    return {part: config[part] for part in ("method", "integration")}


def _facts(name: str, description: str, config: Mapping[str, Any]) -> Facts:
    method: Method = instantiate(config["method"])
    integration: Integration = instantiate(config["integration"])
    method.check(TRUE)
    # The code version says nothing of a user's own classes, so their methods are counted each time.
    parts = [config["method"], config["integration"]]
    stored = (
        noted("facts", parts, lambda: _stored(method, integration))
        if only_ours(parts)
        else _stored(method, integration)
    )
    return Facts(
        name=name,
        family=method.family,
        source=method.source,
        description=description,
        bits=8 * stored["nbytes"] / stored["values"],
        ratio=NUM_FRAMES * TRUE.bf16_frame_bytes / stored["nbytes"],
        varies=stored["varies"],
        integration="" if isinstance(integration, Packed) else integration.name,
    )


def _stored(method: Method, integration: Integration) -> dict[str, Any]:
    """Return the fields of `Stored`, and whether these depend on the video (`varies`)."""
    varies = False
    if isinstance(integration, Packed):
        # A budget in bytes is divided by the bytes of a frame, so these are of the true size.
        size = VideoSize(
            FEW.tokens_per_frame,
            NUM_FRAMES,
            frame_bytes(method, TRUE),
            TRUE.bf16_frame_bytes,
            TRUE.chunk_frames,
        )
        stored = in_all_layers(method, size)
        # The policy's choice depends on the video if unrelated frames leave other sizes.
        like, unlike = (in_layer(method, size, 0, x).nbytes for x in (LIKE, 0.0))
        varies = abs(unlike - like) > 0.01 * like
    else:
        stored = in_session(method, integration)
    return {**asdict(stored), "varies": varies}


def in_all_layers(method: Method, size: VideoSize) -> Stored:
    """Return what all layers hold at the end of the video, at true size.

    size: the small geometry, with the bytes of a frame of the true size.
    """
    # If the first, middle and last layer agree, all are taken to agree.
    last = TRUE.num_layers - 1
    layers = [in_layer(method, size, layer) for layer in (0, last // 2, last)]
    if all(layer == layers[0] for layer in layers):
        return Stored(layers[0].nbytes * TRUE.num_layers, layers[0].values * TRUE.num_layers)
    layers = [in_layer(method, size, layer) for layer in range(TRUE.num_layers)]
    return Stored(sum(x.nbytes for x in layers), sum(x.values for x in layers))


def in_layer(method: Method, size: VideoSize, index: int, likeness: float = LIKE) -> Stored:
    """Return what one layer holds at the end of the video, at true size.

    size: see `in_all_layers`. likeness: correlation of a frame with the one before it.
    """
    # Exact quantizers: only the policy's choice of frames is needed here.
    exact = Exact()
    plain = replace(
        method,
        key=exact,
        value=exact,
        tiers={name: replace(tier, key=exact, value=exact) for name, tier in method.tiers.items()},
    )
    context = Context(
        spec=FEW,
        method=plain,
        retention=method.retention.sized(size),
        backend=Portable(),
        num_frames=NUM_FRAMES,
        positions=_rope(),
        roped=method.keys_in(FEW) == "roped",
    )
    layer = layer_of(context, index)
    for plan, chunk in video(likeness):
        context.turns.clear()  # they belong to one pass
        # As in a run: a policy may compare the notes of a noisy pass with those of the commit.
        layer.observe_noisy(chunk, plan)
        layer.commit(chunk, plan)
    return _at_true_size(layer, method)


def in_session(method: Method, integration: Integration) -> Stored:
    """Return what another integration than `Packed` holds at the end of the video, at true size."""
    # Run small sizes and extrapolate. Bytes are a sum of three parts, per value, per token (places)
    # and per head (means of pooled frames), so three sizes of heads and tokens give all parts.
    integration.check(TRUE, method)
    frame, double = 24, 48  # tokens; groups of 16 fill the video's

    def weigh(layers: int, heads: int, tokens: int) -> int:
        spec = replace(TRUE, num_layers=layers, num_heads=heads, grid=(8, tokens // 8))
        return _filled(method, integration, spec).stored_bytes

    three = _filled(method, integration, replace(TRUE, num_layers=3, num_heads=1, grid=(8, 3)))
    layers = 1 if three.stored_bytes == 3 * weigh(1, 1, frame) else 3  # 3: layers differ
    smallest = three.stored_bytes * layers // 3
    more_heads, more_tokens = weigh(layers, 2, frame), weigh(layers, 1, double)
    of_token = (2 * smallest - more_heads) / frame
    of_head = 2 * smallest - more_tokens
    of_value = (more_heads + more_tokens - 3 * smallest) / frame
    heads, tokens = TRUE.num_heads, TRUE.tokens_per_frame
    nbytes = of_value * heads * tokens + of_token * tokens + of_head * heads
    values = three.num_frames_held * TRUE.bf16_frame_bytes / 2
    return Stored(nbytes * TRUE.num_layers / layers, values)


def _filled(method: Method, integration: Integration, spec: CacheSpec) -> CacheSession:
    """Return a session after the commit passes of a whole video."""
    # Denoising passes are left out, since they do not change the sizes.
    backend = integration.resolve(Auto(), spec, method, CPU)
    session = integration.session(spec, method, backend, NUM_FRAMES, CPU)
    generator = torch.Generator().manual_seed(0)
    for start in range(0, NUM_FRAMES, spec.chunk_frames):
        frames = range(start, start + spec.chunk_frames)
        num_tokens = len(frames) * spec.tokens_per_frame
        size = (3, 1, spec.num_heads, num_tokens, spec.head_dim)
        q, k, v = torch.randn(size, generator=generator).to(DTYPE)
        plan = session.plan(frames, "history")
        for layer in range(spec.num_layers):
            session.attend(layer, q, k, v, plan)
    return session


@cache
def video(likeness: float) -> list[tuple[Plan, Chunk]]:
    """Return the commit passes of a synthetic video.

    likeness: correlation of a frame with the one before it.
    """
    generator = torch.Generator().manual_seed(0)
    size = (3, 1, 1, NUM_FRAMES, FEW.tokens_per_frame, FEW.head_dim)
    x = torch.randn(size, generator=generator)
    # Neighbouring frames of a video are alike, and policies that compare frames depend on it.
    for frame in range(1, NUM_FRAMES):
        # An autoregressive process: the two factors keep the variance constant.
        x[:, :, :, frame] *= (1 - likeness**2) ** 0.5
        x[:, :, :, frame] += likeness * x[:, :, :, frame - 1]
    passes = []
    for start in range(0, NUM_FRAMES, FEW.chunk_frames):
        frames = range(start, start + FEW.chunk_frames)
        plan = Plan(frames, "history", 0, _rope().frames(frames))
        q, k, v = x[:, :, :, start : frames.stop].flatten(3, 4).to(DTYPE)
        chunk = Chunk(k, v, rotated_query=plan.rotate(q), rotated_key=plan.rotate(k))
        passes.append((plan, chunk))
    return passes


@cache
def _rope() -> Rope:
    return Rope(FEW.head_dim, FEW.grid, CPU)


def _at_true_size(layer: Layer, method: Method) -> Stored:
    """Convert the content of a layer from the small geometry to frames of the true size."""
    one = replace(TRUE, num_layers=1)
    values = one.bf16_frame_bytes / 2  # values of one frame
    if isinstance(layer, TokenLayer):
        assert layer.held is not None
        # Counts and notes are fp32, one per token.
        beside = (layer.held.count is not None) + (layer.held.note is not None)
        frames = layer.num_frames_held
        nbytes = frame_bytes(method, one) + 4 * beside * one.num_heads * one.tokens_per_frame
        return Stored(frames * nbytes, frames * values)
    assert isinstance(layer, FrameLayer)
    # A note is taken of a frame of the true size.
    total = Stored(0, 0)
    num_notes = len(layer.notes) + len(layer.noisy_notes)
    if num_notes:
        frame = torch.zeros(1, TRUE.num_heads, 1, TRUE.tokens_per_frame, TRUE.head_dim, dtype=DTYPE)
        note = layer.policy.observe(frame, frame)
        total += Stored(0 if note is None else num_notes * note.nbytes, 0)
    for name, arena in layer.arenas.items():
        pages = [slab.key.shape[2] for slab in arena.slabs]
        tokens = sum(pages) * arena.slabs[0].key.page[0] if pages else 0
        if name == POOL:
            # One token stands for a frame; the table counts it as the values that it stores.
            frames = tokens / one.tokens_per_frame
            total += Stored(frames * one.bf16_frame_bytes, frames * values)
        else:
            frames = tokens / FEW.tokens_per_frame
            tier = tiers_of(method)[name]
            # Many methods share a tier, and counting encodes a frame of the true size.
            if (key := repr(tier)) not in _KNOWN:
                _KNOWN[key] = sum(tier_bytes(tier, one, DTYPE).values())
            total += Stored(frames * _KNOWN[key], frames * values)
    return total
