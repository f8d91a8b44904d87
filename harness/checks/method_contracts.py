"""The contracts that every method must fulfil, one function each.

A contract returns None if it holds, or the reason why it does not apply to this method. It raises
`Broken`, with one sentence, if it does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from harness.api import CacheSpec, FramePolicy, Quantizer, TokenPolicy
from harness.cache.integration import CacheSession
from harness.cache.session import Session
from harness.checks.declared_bytes import declared_bytes, outgrown
from harness.checks.error_by_bits import errors_by_bits
from harness.checks.method_subject import NUM_FRAMES, Subject
from harness.checks.tiny_network import spec, video
from harness.checks.verdict import Broken, Verdict, verdict
from harness.checks.walk import SHARED, held_by_process, live_bytes, reached

Contract = Callable[[Subject], str | None]
WORST = 1.0  # relative error of a round trip that stores zeros
TOLERANCE = 0.02  # relative difference between declared and stored bytes
NAMES_A_WAY_OUT = ("choose ", "give ", "type ")
# A window of three chunks, a sink of one, and positions that move with the window.
EXOTIC = {"window": 9, "sink": 3, "positions": "relative"}
# Sizes that are neither multiples of 16 nor powers of two.
ODD = {"head_dim": 24, "num_heads": 3, "grid": (3, 5)}


def builds(s: Subject) -> None:
    """Method and integration can be built and serve the small geometry."""
    s.method.check(spec())
    s.integration.check(spec(), s.method)


def round_trip_keeps_shape_and_dtype(s: Subject) -> None:
    """Round trips in BF16 and FP32 at batch 2 keep shape and dtype, and beat storing zeros."""
    for dtype in (torch.bfloat16, torch.float32):
        for name, quantizer, x in _quantizers(s, spec(), dtype):
            back = quantizer.decode(quantizer.encode(x), dtype)
            if back.shape != x.shape or back.dtype != dtype:
                raise Broken(
                    f"{name} gives {list(back.shape)} {back.dtype} back for {list(x.shape)} {dtype}"
                )
            error = ((back - x).float().norm() / x.float().norm()).item()
            if not error < WORST:  # `not <` instead of `>=` catches NaN
                raise Broken(f"{name} loses what it stores: relative error {error:.2g}")


def any_heads_and_frames_can_be_read(s: Subject) -> str | None:
    """Parts begin with batch, heads and frames, and a view of them decodes to the same values."""
    # Attention backends decode one head, or a few frames, at a time.
    if not s.packed:
        return "its integration encodes all tokens as one piece"
    for name, quantizer, x in _quantizers(s, spec(), torch.float32):
        packed = quantizer.encode(x)
        if wrong := [n for n, p in packed.parts.items() if p.shape[:3] != x.shape[:3]]:
            raise Broken(
                f"{name}: part {wrong[0]} has shape {list(packed.parts[wrong[0]].shape)}, which "
                f"does not begin with batch, heads and frames {list(x.shape[:3])}"
            )
        whole = torch.empty(x.shape)
        quantizer.stage(packed, whole)
        heads, frames = slice(1, 2), slice(1, 3)
        some = torch.empty_like(whole[:, heads, frames])
        quantizer.stage(packed.view(heads, frames), some)
        if not torch.allclose(some, whole[:, heads, frames], rtol=1e-4, atol=1e-5):
            raise Broken(f"{name} decodes one head of two frames to other values")
    return None


def error_falls_as_bits_rise(s: Subject) -> str | None:
    """With 2, 4 and 8 bits, the error of each quantizer with a field `bits` falls."""
    # Codes that are packed or scaled wrongly at one width may still beat zeros in the round trip.
    errors = errors_by_bits(s.config["method"], s.page(1))
    if len(errors) < 2:
        return "no quantizer of it comes in several widths"
    for (few, worse), (many, better) in pairwise(errors.items()):
        for where in worse:
            if not better[where] < worse[where]:
                raise Broken(
                    f"{where}: {many} bits have a relative error of {better[where]:.3g}, "
                    f"{few} bits one of {worse[where]:.3g}"
                )
    return None


def stored_bytes_are_those_of_live_tensors(s: Subject) -> None:
    """`stored_bytes` is exactly the size of the tensor storages that the cache reaches."""
    _, session = s.first
    # Tables of the method itself (rotations, codebooks) are not part of the history. Exactly equal:
    # every tensor is found by walking the objects, so nothing has to be estimated.
    _demand_counted(s, session, live_bytes(s.method, leave_out=SHARED))


def methods_hold_no_history(s: Subject) -> None:
    """The method's own objects do not grow with the videos they have processed."""
    fresh = s.build()
    video(s.session(fresh, 3), 3, reuse=fresh.reuse)
    assert s.first  # the shared method has processed a longer video
    few, many = (live_bytes(method, leave_out=()) for method in (fresh, s.method))
    if many > few:
        raise Broken(
            f"its objects hold {few} bytes of tensors after 3 frames and {many} after {NUM_FRAMES} "
            "or more: history belongs into parts and notes, where it is counted"
        )


def nothing_is_held_outside_the_cache(s: Subject) -> None:
    """Another video leaves no data in the process outside its cache."""
    if hidden := held_outside([s]):
        largest, _ = max(hidden, key=lambda found: found[1])
        what = type(largest).__name__
        if isinstance(largest, torch.Tensor):
            what = f"tensor {list(largest.shape)} {largest.dtype}"
        raise Broken(
            f"a video leaves {sum(size for _, size in hidden)} bytes that it does not declare, in "
            f"{len(hidden)} objects outside the cache (globals, class attributes, closures, "
            f"caches), the largest a {what}: keep history in parts and notes, where it is counted"
        )


def held_outside(subjects: Sequence[Subject]) -> list[tuple[Any, int]]:
    """Return objects, with bytes, that a second video of each method leaves outside its cache.

    A search of the process takes a second or more, so several methods share one.
    """
    for s in subjects:
        assert s.first  # the first video creates tables that are made once
    before = held_by_process()
    # Prompt 1 has other values than the first video, so a cache by content cannot hide them.
    # Only the last cache is kept alive; those of the other methods are freed with their data.
    for s in subjects:
        latents, session = s.run(s.method, prompt=1)
    # Ignore what the methods hold: `methods_hold_no_history` checks that.
    methods = [s.method for s in subjects]
    known = before.keys() | reached(session, latents, *methods).keys()
    return [found for at, found in held_by_process().items() if at not in known and found[1]]


def declared_bytes_are_stored(s: Subject) -> str | None:
    """Stored bytes match the declared ones: bytes per frame times the policy's frames or tokens."""
    _, session = s.first
    if not isinstance(session, Session):
        return "its integration stores the whole capacity, as it says itself"
    if problem := outgrown(session):
        raise Broken(problem)
    # The planner predicts memory from the declarations, so a wrong one gives wrong plans.
    declared, stored = declared_bytes(session), session.stored_bytes
    if abs(declared - stored) > TOLERANCE * stored:
        policy = s.method.retention
        bound = "max_tokens" if isinstance(policy, TokenPolicy) else "max_frames"
        raise Broken(
            f"its quantizers and {type(policy).__name__}.{bound} declare {declared:.0f} bytes, "
            f"{stored} are stored"
        )
    return None


def same_input_same_output(s: Subject) -> None:
    """Encoding twice gives equal codes, and a newly built method makes an equal video, bitwise."""
    for name, quantizer, x in _quantizers(s, spec(), torch.bfloat16):
        one, two = (quantizer.encode(x).parts for _ in range(2))
        if any(not torch.equal(_bytes(one[part]), _bytes(two[part])) for part in one):
            raise Broken(f"{name} gives the same values other codes the second time")
    # Bitwise: a resumed run must continue as if it had never stopped. If the video is equal even
    # after another one, it need not be made alone.
    if not torch.equal(s.second, s.first[0]) and not torch.equal(s.run(s.build())[0], s.first[0]):
        raise Broken("the same video comes out differently the second time")


def prompts_do_not_affect_each_other(s: Subject) -> None:
    """A video after another one is bitwise equal to the same video alone."""
    if not torch.equal(s.second, s.first[0]):
        raise Broken("a video comes out differently after another one than alone")


def runs_on_any_model(s: Subject) -> str | None:
    """Runs with a window, a sink, relative positions, batch 2 and a last chunk of two frames.

    A refusal of sink or positions is allowed; a window alone must be served.
    """
    # Everything at once; if that is refused, the window alone.
    shape = spec(**EXOTIC)
    session, refusal = _session(s, shape)
    if session is None:
        shape = spec(window=9)
        session, again = _session(s, shape)
        if session is None:
            raise Broken(f"it refuses a window of 9 frames: {again}")
    latents = video(session, NUM_FRAMES, batch=2, reuse=s.method.reuse)
    if not latents.isfinite().all():
        raise Broken(f"latents are not finite with {_words(shape)}")
    if tuple(latents.shape[:2]) != (2, NUM_FRAMES):
        raise Broken(f"latents have shape {list(latents.shape)}")
    # Tokens that have left the window are hidden until the next commit, and the published
    # integration keeps buffers for the whole video: neither can be counted here.
    frames = s.packed and isinstance(s.method.retention, FramePolicy)
    if frames and session.num_frames_held > 9:
        raise Broken(f"{session.num_frames_held:g} frames are held beyond a window of 9")
    return f"refused: {refusal}" if refusal else None


def grouped_queries_share_a_cache(s: Subject) -> str | None:
    """Four query heads over two key/value heads give finite output and store two heads."""
    # The session is called directly, since the tiny network has no grouped queries.
    shape = spec(num_heads=4, num_kv_heads=2, num_layers=1)
    session, refusal = _session(s, shape)
    if session is None:
        return f"refused: {refusal}"
    before = live_bytes(s.method, leave_out=SHARED)
    draw = torch.Generator().manual_seed(0)
    num_tokens = shape.chunk_frames * shape.tokens_per_frame
    # Whole chunks only: a partial last one is tested with the tiny network.
    for start in range(0, NUM_FRAMES - shape.chunk_frames + 1, shape.chunk_frames):
        frames = range(start, start + shape.chunk_frames)
        q, k, v = (
            torch.randn(1, heads, num_tokens, shape.head_dim, generator=draw).bfloat16()
            for heads in (shape.num_heads, shape.kv_heads, shape.kv_heads)
        )
        out = session.attend(0, q, k, v, session.plan(frames, "history"))
        session.watch.demand_finite(f"frames {frames.start} on", session)
        if out.shape != q.shape or not out.isfinite().all():
            raise Broken(
                f"four query heads over two heads of keys give {list(out.shape)}, or values that "
                "are not finite"
            )
    _demand_counted(s, session, before)
    return None


def odd_sizes_are_served_or_refused(s: Subject) -> str | None:
    """Three heads of 24 channels and frames of 15 tokens work, or are refused with a reason."""
    shape = spec(**ODD)
    try:
        s.method.check(shape)
    except ValueError as error:
        return f"refused: {_reason(error)}"
    for name, quantizer, x in _quantizers(s, shape, torch.bfloat16):
        back = quantizer.decode(quantizer.encode(x), x.dtype)
        if back.shape != x.shape or not back.isfinite().all():
            raise Broken(f"{name} does not serve {_words(shape)}, and check says so not")
    return None


def first_chunk_is_that_of_bf16(s: Subject) -> str | None:
    """The first chunk, which has no history yet, is bitwise equal to that of BF16."""
    # A skipped pass changes the latents of the first chunk too.
    if s.method.reuse is not None:
        return "it skips passes"
    frames = slice(0, spec().chunk_frames)
    if not torch.equal(s.first[0][:, frames], s.reference[:, frames]):
        raise Broken("the first chunk differs from that of BF16, before there is any history")
    return None


def identity_is_bf16(s: Subject) -> str | None:
    """A method that neither rounds nor evicts makes the video of BF16, bit for bit."""
    latents, session = s.first
    whole = isinstance(s.method.retention, FramePolicy) and session.num_frames_held == NUM_FRAMES
    if not (s.exact and whole) or s.method.tiers or s.method.reuse is not None:
        return "it is no identity"
    # A pooled frame counts as a held one.
    if isinstance(session, Session) and session.ledger().get("pooled"):
        return "it is no identity"
    if not torch.equal(latents, s.reference):
        raise Broken("nothing is rounded and nothing leaves, but the video is not that of BF16")
    return None


# `builds` first: without it no other contract can be examined.
CONTRACTS: tuple[Contract, ...] = (
    builds,
    round_trip_keeps_shape_and_dtype,
    any_heads_and_frames_can_be_read,
    error_falls_as_bits_rise,
    first_chunk_is_that_of_bf16,
    identity_is_bf16,
    same_input_same_output,
    prompts_do_not_affect_each_other,
    stored_bytes_are_those_of_live_tensors,
    methods_hold_no_history,
    nothing_is_held_outside_the_cache,
    declared_bytes_are_stored,
    runs_on_any_model,
    grouped_queries_share_a_cache,
    odd_sizes_are_served_or_refused,
)


def _demand_counted(s: Subject, session: CacheSession, method_bytes: int) -> None:
    """Check that a cache counts the bytes that it holds beside the method's own `method_bytes`."""
    live = live_bytes(session, s.method) - method_bytes
    if live != session.stored_bytes:
        raise Broken(f"the tensors alive take {live} bytes, {session.stored_bytes} are counted")


def _quantizers(
    s: Subject, shape: CacheSpec, dtype: torch.dtype
) -> Iterator[tuple[str, Quantizer, Tensor]]:
    """Yield each quantizer as `<tier>.<key or value>`, with seeded values [2, H, F, T, D]."""
    for where, tier in s.tiers.items():
        num_frames, frame_tokens = s.page(tier.span)
        num_tokens = frame_tokens * shape.tokens_per_frame
        size = (2, shape.kv_heads, num_frames, num_tokens, shape.head_dim)
        x = torch.randn(size, generator=torch.Generator().manual_seed(0))
        x[..., ::8] *= 3  # real keys have some channels of larger magnitude
        x = x.to(dtype)
        yield f"{where}.key", tier.key, x
        yield f"{where}.value", tier.value, x


def _bytes(x: Tensor) -> Tensor:
    """View a tensor as bytes."""
    # torch.equal takes NaN as unequal, and does not support every small dtype.
    return x.contiguous().view(torch.uint8)


def _session(s: Subject, shape: CacheSpec) -> tuple[CacheSession | None, str]:
    """Return a cache, or the reason why the method refuses the geometry."""
    try:
        return s.session(s.method, NUM_FRAMES, shape), ""
    except ValueError as error:
        return None, _reason(error)


def _reason(error: ValueError) -> str:
    """Return the message of a refusal; raise Broken if it does not name an alternative."""
    # Every error of the harness says what to do instead; a user's method should, too.
    sentence = " ".join(str(error).split())
    if not any(words in sentence for words in NAMES_A_WAY_OUT):
        raise Broken(f"it refuses without naming what to choose instead: {sentence}")
    return sentence


def _words(shape: CacheSpec) -> str:
    """Describe how a geometry differs from the usual one."""
    changed = vars(shape)
    usual = vars(spec())
    return ", ".join(f"{name}={x}" for name, x in changed.items() if x != usual[name])


def verdicts(
    subject: Subject,
    begins: Callable[[str], None] = lambda contract: None,
    contracts: Sequence[Contract] = CONTRACTS,
) -> Iterator[Verdict]:
    """Yield the verdict of each contract in turn; stop after the first if the method is not built.

    begins: called with the name of each contract before it starts.
    """
    for contract in contracts:
        found = verdict(contract, subject, begins)
        yield found
        if contract is builds and not found.held:
            return
