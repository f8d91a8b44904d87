"""Passes that may attend to some earlier frames only, against dense attention over just these."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Exact, Method, Revision, Tier, TokenPolicy, Tokens
from harness.cache.attention.base import Backend
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from harness.cache.frame_attention import frame_mass
from harness.cache.frame_layer import FrameLayer
from harness.cache.layer import Chunk
from harness.cache.positions import Rope
from harness.cache.published import Dense, Published
from harness.cache.session import Session
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.spans import Spans
from tests.support.geometry import BF16, CPU, GRID, spec


class All(TokenPolicy):
    """Keeps everything, token by token, in order."""

    def revise(self, tokens: Tokens) -> Revision:
        return Revision(torch.arange(tokens.frame.shape[2]).expand(tokens.frame.shape))


TOKEN4 = RTN(bits=4, group=32, axis="channels")
METHODS = {
    "exact": BF16,
    "rtn4": Method(RTN(bits=4), RTN(bits=4), KeepAll()),
    "pre_rope": Method(RTN(bits=8), RTN(bits=8), KeepAll(), keys="pre_rope"),
    "spans": Method(RTN(bits=4), RTN(bits=4), Spans(3), tiers={"recent": Tier(Exact(), Exact())}),
    "tokens": Method(Exact(), Exact(), All()),
    "tokens4": Method(TOKEN4, TOKEN4, All()),
}
BACKENDS = {
    "reference": Reference(),
    "heads": Portable(),
    "tokens": Portable(axis="tokens", tile_tokens=40),
}
ROPE = Rope(32, GRID, CPU)


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = torch.randn(3, 1, 2, 96, 32, generator=torch.Generator().manual_seed(seed))
    return q, k, v


def session_of(method: Method, backend: Backend, num_chunks: int = 4, **changes: object) -> Session:
    shape = spec(num_layers=1, **changes)
    method.check(shape)
    session = Session(shape, method, backend, 18, CPU)
    for start in range(0, 3 * num_chunks, 3):
        session.attend(0, *drawn(start), session.plan(range(start, start + 3), "history"))
    return session


def stored(session: Session) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys, roped, and values of each frame in full [B, H, T, D]."""
    frames, k, v = session.stored(0)
    if len(frames) < k.shape[3] // 32:  # single tokens lie as one frame
        k, v = (x[:, :, 0].unflatten(2, (-1, 32)) for x in (k, v))
        frames = [*range(k.shape[2])]
    if not session._context.roped:
        k = ROPE.frames(frames).rotate(k)
    return {frame: (k[:, :, i], v[:, :, i]) for i, frame in enumerate(frames)}


def dense(
    held: dict[int, tuple[Tensor, Tensor]], chunk: tuple[Tensor, ...], frames: range, sees: range
) -> Tensor:
    q, k = (ROPE.frames(frames).rotate(x.unflatten(2, (3, -1))).flatten(2, 3) for x in chunk[:2])
    seen = [held[frame] for frame in sees if frame in held]
    keys, values = ([pair[i] for pair in seen] for i in (0, 1))
    return F.scaled_dot_product_attention(
        q, torch.cat([*keys, k], 2), torch.cat([*values, chunk[2]], 2)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_pass_sees_exactly_the_frames_that_it_is_shown(name: str, backend: str) -> None:
    session = session_of(METHODS[name], BACKENDS[backend])
    held, frames, chunk = stored(session), range(12, 15), drawn(99)
    assert sorted(held) == [*range(12)]
    for sees in (range(12), range(6, 12), range(3, 5), range(0), range(7, 8), range(1, 11)):
        out = session.attend(0, *chunk, session.plan(frames, "nothing", sees))
        torch.testing.assert_close(out, dense(held, chunk, frames, sees), atol=2e-5, rtol=0)
    whole = session.attend(0, *chunk, session.plan(frames, "nothing"))
    torch.testing.assert_close(whole, dense(held, chunk, frames, range(12)), atol=2e-5, rtol=0)


def test_what_the_window_took_is_not_shown_again() -> None:
    session = session_of(BF16, Portable(), window=9, sink=3)
    chunk, frames = drawn(99), range(12, 15)
    plan = session.plan(frames, "nothing", range(12))
    held = stored(session)
    assert sorted(held) == [0, 1, 2, 9, 10, 11]
    expected = dense(held, chunk, frames, range(12))
    torch.testing.assert_close(session.attend(0, *chunk, plan), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("sees", [range(0), range(3, 9), range(6, 9), range(2, 5), range(7, 12)])
def test_active_chunks_are_seen_by_frames_too(sees: range) -> None:
    """Of two finished and two active chunks; the second active one may see itself alone."""
    session = session_of(BF16, Portable(), num_chunks=2)
    held = stored(session)
    for start in (6, 9):
        frames, chunk = range(start, start + 3), drawn(start)
        out = session.attend(0, *chunk, session.plan(frames, "active", sees))
        earlier = range(sees.start, min(sees.stop, start))
        torch.testing.assert_close(out, dense(held, chunk, frames, earlier), atol=2e-5, rtol=0)
        k = ROPE.frames(frames).rotate(chunk[1].unflatten(2, (3, -1)))
        v = chunk[2].unflatten(2, (3, -1))
        held |= {frame: (k[:, :, i], v[:, :, i]) for i, frame in enumerate(frames)}


def test_a_policy_that_measures_attention_sees_no_more_than_the_pass() -> None:
    """Frames that the commit does not see draw nothing."""
    session = session_of(METHODS["spans"], Portable())
    q, k, v = drawn(99)
    plan = session.plan(range(12, 15), "history", range(4, 12))
    chunk = Chunk(k, v, rotated_query=plan.rotate(q), rotated_key=plan.rotate(k))
    layer = session._layers[0]
    assert isinstance(layer, FrameLayer)
    full = [each for name in layer.arenas for each in layer._placed(name, plan)]
    mass = frame_mass(full, chunk, plan, 32)
    assert all(mass.get(frame, 0) == 0 for frame in range(4))
    assert all(mass[frame] > 0 for frame in range(4, 15))
    assert sum(mass.values()) == pytest.approx(1)


def test_the_published_integration_says_that_it_shows_everything() -> None:
    session = Published().session(spec(), BF16, Dense(), 12, CPU)
    with pytest.raises(ValueError, match="choose integration=packed"):
        session.plan(range(3), "nothing", range(0))
