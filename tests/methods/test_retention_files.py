"""The files of conf/method that set frame policies: what they build."""

from __future__ import annotations

import pytest

from harness.api import DROP, KEEP, POOL, CacheSpec, Exact, History, VideoSize
from tests.support.geometry import CONF, method_of, read_method

SPECS = {
    "small": CacheSpec(4, 4, 32, (8, 12), 3),
    "self_forcing": CacheSpec(30, 12, 128, (30, 52), 3, window=21),
}
PLACED = {  # frames in each tier after 42 frames, none of which left by a window of the model
    "age_int2": {"recent": 13, KEEP: 29},
    "age_int4": {"recent": 13, KEEP: 29},
    "tptq_int2": {"recent": 6, KEEP: 36},
    "rtn_int4_recent2": {"exact": 6, KEEP: 36},
    "quarot_int4_recent2": {"exact": 6, KEEP: 36},
    "kivi_int4": {"exact": 3, KEEP: 39},
    "kivi_g64_int2": {"exact": 3, KEEP: 39},
    "kivi_unroped_int2": {"exact": 3, KEEP: 39},
    "kivi_nowindow_int4": {KEEP: 42},
    "rtn_int4_sink": {"exact": 3, KEEP: 39},
    "rtn_int2_sink": {"exact": 3, KEEP: 39},
    "spatial_rtn_int4_int2": {"foreground": 42, KEEP: 42},
    "spatial_kivi_int4_int2": {"foreground": 42, KEEP: 42},
    "spatial_quarot_int4_rtn_int2": {"foreground": 42, KEEP: 42},
    "hybrid_int2": {"high": 10, KEEP: 32},
    "adaptive_int2": {"high": 16, KEEP: 26},
    "prune_int2": {"high": 13, KEEP: 9},
    "prune_int4": {KEEP: 26},
    "softprune_int2": {"high": 13, KEEP: 13, POOL: 16},
    "softprune_int4": {KEEP: 26, POOL: 16},
    "softprune_mass_int4": {KEEP: 26, POOL: 16},
    "window_bf16": {KEEP: 12},
    "sink_window_bf16": {KEEP: 12},
    "sink_window_int4": {KEEP: 12},
}


def needs(name: str) -> None:
    """Skip where the quantizer that a file names is not there."""
    if name == "tptq_int2":
        pytest.importorskip("methods.quantizers.outliers")


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize("name", PLACED)
def test_a_file_builds_a_method_that_serves_the_model(name: str, model: str) -> None:
    needs(name)
    method = read_method(name, short_tail=model == "self_forcing")
    method.check(SPECS[model])
    assert isinstance(method.tiers, dict) and method.family and method.source
    first = (CONF / "method" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")


@pytest.mark.parametrize("name", PLACED)
def test_a_file_holds_so_many_frames_in_each_tier(name: str) -> None:
    needs(name)
    policy = read_method(name).retention.sized(VideoSize(96, 42, 100, 320))
    found = {tier: policy.max_frames(tier, 42) for tier in (KEEP, POOL, *policy.tiers)}
    assert {tier: count for tier, count in found.items() if count} == PLACED[name]


def test_pruning_at_equal_memory_is_one_override_away() -> None:
    method = method_of(
        "softprune_int4", "method.retention.keep=null", "method.retention.budget=12 frames"
    )
    policy = method.retention.sized(VideoSize(96, 42, 100, 320))
    placements = policy.decide(History(range(42), 42))
    assert list(placements.values()).count(KEEP) == 12
    assert DROP not in placements.values()


def test_the_tiers_hold_the_bits_that_the_names_say() -> None:
    four = read_method("age_int4")
    assert (four.key.bits, four.tiers["recent"].key.bits) == (4, 8)
    two = read_method("prune_int2")
    assert (two.key.bits, two.tiers["high"].key.bits, two.tiers["high"].value.bits) == (2, 4, 4)
    sunk = read_method("rtn_int2_sink")
    assert sunk.key.bits == 2 and sunk.tiers["exact"].key == Exact()
    spatial = read_method("spatial_kivi_int4_int2")
    assert (spatial.key.axis, spatial.value.axis, spatial.keys) == ("tokens", "channels", "roped")
    tier = spatial.tiers["foreground"]
    assert (tier.key.axis, tier.value.axis, tier.value.bits, spatial.value.bits) == (
        "tokens",
        "channels",
        4,
        2,
    )
