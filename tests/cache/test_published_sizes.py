"""The study's compression ratios, from what the methods' files build: sizes only, no values.

Quantizers say what they store of tensors without memory, policies how many frames lie where; the
study's own way to count bytes is `harness.cache.published.count`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate

from harness.api import CacheSpec, FramePolicy, History, Method
from harness.cache.published import Dense, Published
from harness.cache.published.layer import Layer
from harness.planning import study_peaks as plan
from methods.quantizers.sigma import Sigma
from methods.retention.ladder import Ladder
from tests.conftest import SHARED
from tests.support.geometry import CPU, configured, published_names, tiered_names

META = torch.device("meta")
SPEC = CacheSpec(
    num_layers=30, num_heads=12, head_dim=128, grid=(30, 52), chunk_frames=3, window=21
)
FRAMES = 42
BF16_BYTES = 12_076_646_400
OUTLIER_BYTES = 6  # int32 index and fp16 value
PARTIAL = ("rtn_k2_v4", "kivi_k2_v4", "quarot_kv_int4_refresh")  # out of memory, never published
MASKED = "spatial_mixed_fg_rtn_int4_bg_rtn_int2"  # its mask depends on the video
NAMES = published_names()


def table(name: str) -> pd.DataFrame:
    path = SHARED / "published" / name
    if not path.is_file():
        pytest.skip(f"published results not found: {path}")
    return pd.read_csv(path)


@cache
def published(suite: str, row: str) -> float:
    rows = table("summaries.csv")
    found = rows[(rows["benchmark"] == suite) & (rows["method"] == row)]
    return float(found["compression_ratio"].iloc[0])


@cache
def budgets(suite: str) -> tuple[float, ...]:
    rows = table("flowcache_layer_budgets.csv")
    return tuple(rows[rows["benchmark"] == suite].sort_values("layer")["budget_scale"])


def built(name: str) -> tuple[Method, Published]:
    """A method and its integration; what is skipped of passes takes no part in sizes."""
    config = configured(f"method={name}", "model=self_forcing")
    config["method"].pop("reuse", None)
    return instantiate(config["method"]), instantiate(config["integration"])


@cache
def notes(policy: FramePolicy) -> dict[int, torch.Tensor]:
    """Of random frames: their values decide which frames matter, never how many."""
    draw = torch.Generator().manual_seed(0)
    frames = torch.randn(2, FRAMES, 1, 12, 1560, 1, generator=draw) * 1e-2
    found = {f: policy.observe(*frames[:, f, :, :, None]) for f in range(FRAMES)}
    return {f: note[0] for f, note in found.items() if note is not None}


def layer_bytes(layer: Layer, policy: FramePolicy, alike: dict[object, int]) -> int:
    """One layer of a full capacity, as the study counted it.

    alike: bytes by placements, of the same method: layers that place alike hold the same.
    """
    known = notes(policy)
    placements = policy.decide(
        History(range(FRAMES), FRAMES, known, known, {}, {}, FRAMES, layer.layer, SPEC.num_layers)
    )
    layer.end = FRAMES
    layer.place(placements, CPU)
    placed = tuple(layer.placements.items())
    if placed in alike:
        return alike[placed]
    x = torch.empty(1, 12, FRAMES * 1560, 128, dtype=torch.bfloat16, device=META)
    for side in (layer.key, layer.value):
        side.buffer = x if side.beside else None
    layer.write(x, x)
    alike[placed] = layer.count.total
    return alike[placed]


def total_bytes(method: Method, integration: Published) -> int:
    """All layers; of those that are alike, one."""
    session = integration.session(SPEC, method, Dense(), FRAMES, CPU)
    alike: dict[object, int] = {}
    if isinstance(method.retention, Ladder):
        return sum(layer_bytes(layer, layer.policy, alike) for layer in session._layers)
    return SPEC.num_layers * layer_bytes(session._layers[0], session._layers[0].policy, alike)


def without_outliers(method: Method) -> Method:
    """How many outliers there are depends on the data; they come on top."""
    inner = {
        side: quantizer.inner
        for side in ("key", "value")
        if isinstance(quantizer := getattr(method, side), Sigma)
    }
    return replace(method, **inner)


def budgeted(method: Method, suite: str) -> Method:
    """With the layers' budgets of a suite at full precision."""
    if not isinstance(method.retention, Ladder):
        return method
    return replace(method, retention=replace(method.retention, layers=budgets(suite)))


def ratio(name: str, suite: str) -> float:
    is_ladder = isinstance(built(name)[0].retention, Ladder)
    return _ratio(name, suite if is_ladder else "any")


@cache
def _ratio(name: str, suite: str) -> float:
    method, integration = built(name)
    return BF16_BYTES / total_bytes(budgeted(without_outliers(method), suite), integration)


def row_of(name: str) -> str:
    return name.removeprefix("published/").upper()


def depends_on_data(name: str) -> bool:
    return name.removeprefix("published/") in (
        *PARTIAL,
        MASKED,
        "qaq_int4",
        "qaq_int2",
        "tptq_int2",
    )


@pytest.mark.parametrize("name", tiered_names(name for name in NAMES if not depends_on_data(name)))
def test_every_published_ratio_to_four_decimals(name: str) -> None:
    for suite in ("moviegen", "storyeval"):
        assert f"{ratio(name, suite):.4f}" == f"{published(suite, row_of(name)):.4f}", suite


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_ratios_that_depend_on_the_videos_lie_within_their_bounds(suite: str) -> None:
    values = FRAMES * 1560 * 1536 * SPEC.num_layers  # of keys
    for name in ("qaq_int4", "qaq_int2"):
        fixed = BF16_BYTES / ratio(f"published/{name}", suite)
        outliers = BF16_BYTES / published(suite, name.upper()) - fixed
        assert 0.0014 < outliers / OUTLIER_BYTES / (2 * values) < 0.0017  # published: 0.16 %
    old = (FRAMES * 1560 - round(0.15 * FRAMES * 1560)) * 1536
    fixed = BF16_BYTES / ratio("published/tptq_int2", suite)
    most = fixed + SPEC.num_layers * int(0.001 * old) * OUTLIER_BYTES
    assert f"{BF16_BYTES / most:.4f}" == "2.7141"
    assert BF16_BYTES / most < published(suite, "TPTQ_INT2") < BF16_BYTES / fixed
    assert f"{ratio(f'published/{MASKED}', suite):.4f}" == "3.7000"  # at a share of 0.65
    assert 3.36 < published(suite, MASKED.upper()) < 4.15  # at its least and most


@pytest.mark.parametrize("name", tiered_names(NAMES))
def test_ratios_agree_with_the_planner(name: str) -> None:
    """Two counts of one study: descriptions in `harness.planning`, and what the methods store."""
    method, integration = built(name)
    found = BF16_BYTES / total_bytes(without_outliers(method), integration)
    book = plan.catalogue()
    stored = book.methods[row_of(name)]
    plain = replace(stored, outliers=plan.Outliers())
    book = replace(book, methods={row_of(name): plain})
    wanted = plan.row(row_of(name), "moviegen", book, shape()).ratio
    assert f"{found:.4f}" == f"{wanted:.4f}"


@cache
def shape() -> plan.Geometry:
    model: Any = instantiate(configured("model=self_forcing")["model"])
    return plan.geometry(model, FRAMES, 0)
