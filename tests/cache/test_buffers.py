"""`integration=published_flowcache`: full buffers, keys in FP32, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.api import CacheSpec, Exact, Method, Revision, Tokens
from harness.cache.attention.portable import Portable
from harness.cache.published import FullBuffers
from harness.planning.run_memory import memory
from harness.prompts.suite import Prompt, Suite
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.tokens.flowcache import FlowCache
from methods.retention.tokens.scored import Scored
from methods.retention.window import Window
from tests.support.geometry import CPU
from tests.support.runs import run

SPEC = CacheSpec(num_layers=1, num_heads=2, head_dim=8, grid=(2, 4), chunk_frames=2)
NUM_FRAMES = 8


def filled(method: Method) -> Any:
    """A session that has stored all chunks of a BF16 video."""
    session = FullBuffers().session(SPEC, method, Portable(), NUM_FRAMES, CPU)
    draws = torch.Generator().manual_seed(0)
    for first in range(0, NUM_FRAMES, SPEC.chunk_frames):
        frames = range(first, first + SPEC.chunk_frames)
        shape = (3, 1, SPEC.num_heads, len(frames) * SPEC.tokens_per_frame, SPEC.head_dim)
        q, k, v = torch.randn(shape, generator=draws).bfloat16()
        for stores in ("active", "history"):
            out = session.attend(0, q, k, v, session.plan(frames, stores))
            assert out.dtype == torch.bfloat16
            sizes = session.ledger()
            assert sizes["buffers"] == FullBuffers().history_bytes(SPEC, NUM_FRAMES)
            assert "active" not in sizes
    return session


def test_a_bf16_model_has_fp32_keys_and_bf16_values_for_the_whole_window() -> None:
    session = filled(Method(Exact(), Exact(), KeepAll()))
    buffers = session._layers[0].buffers
    assert buffers.key.dtype == torch.float32
    assert buffers.value.dtype == torch.bfloat16
    assert buffers.nbytes == NUM_FRAMES * SPEC.tokens_per_frame * 2 * 8 * (4 + 2)
    assert session.num_frames_held == NUM_FRAMES


def test_scores_see_fp32_and_compression_frees_nothing() -> None:
    seen: list[torch.dtype] = []

    class Listening(Scored):
        def revise(self, tokens: Tokens) -> Revision:
            seen.extend([tokens.key.dtype, tokens.query.dtype])
            return super().revise(tokens)

    scorer = FlowCache(queries="chunk", pool=7, weight=0.07)
    cut = Listening(budget="1 chunks", trigger="next_pass", order="score", scorer=scorer)
    session = filled(Method(Exact(), Exact(), cut))
    assert set(seen) == {torch.float32}
    # The last chunk joins the tokens that the last cut kept.
    assert session.num_frames_held == 2 * SPEC.chunk_frames


@pytest.mark.parametrize(
    "method",
    [Method(RTN(bits=4), RTN(bits=4), KeepAll()), Method(Exact(), Exact(), Window("2 chunks"))],
)
def test_quantizers_and_policies_over_frames_are_refused(method: Method) -> None:
    with pytest.raises(ValueError, match="choose method=flowcache_slow"):
        FullBuffers().check(SPEC, method)


def test_a_dry_run_knows_its_bytes(tmp_path: Path) -> None:
    words = ["model=skyreels_tiny", "method=flowcache_cut", "integration=published_flowcache"]
    suite = Suite("mine", (Prompt(0, "a dog"),), "custom", "0" * 64, 45)
    found = memory(run(tmp_path, *words, model_name="skyreels_tiny", suite=suite))
    # Two branches of three layers: 25 frames of 32 tokens and three heads of 32 channels.
    assert found.kv_bytes == 2 * 3 * 25 * 32 * 3 * 32 * (4 + 2)
    assert found.peak_bytes is None
    assert "peak is not planned" in found.reasons[-1]
