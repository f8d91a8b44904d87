"""The files of conf/method that set frame policies: what they build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.api import DROP, KEEP, POOL, CacheSpec, Exact, History, Method, VideoSize

CONF = Path(__file__).resolve().parents[2] / "conf"
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


def composed(name: str, model: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"method={name}", f"model={model}", *overrides])
    return OmegaConf.to_container(config, resolve=True)["method"]


def built(name: str, model: str, *overrides: str) -> Method:
    method: Method = instantiate(composed(name, model, *overrides))
    return method


def needs(name: str) -> None:
    """Skip where the quantizer that a file names is not there."""
    if name == "tptq_int2":
        pytest.importorskip("methods.quantizers.outliers")


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize("name", PLACED)
def test_a_file_builds_a_method_that_serves_the_model(name: str, model: str) -> None:
    needs(name)
    method = built(name, model)
    method.check(SPECS[model])
    assert isinstance(method.tiers, dict) and method.family and method.source
    first = (CONF / "method" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")


@pytest.mark.parametrize("name", PLACED)
def test_a_file_holds_so_many_frames_in_each_tier(name: str) -> None:
    needs(name)
    policy = built(name, "small").retention.sized(VideoSize(96, 42, 100, 320))
    found = {tier: policy.max_frames(tier, 42) for tier in (KEEP, POOL, *policy.tiers)}
    assert {tier: count for tier, count in found.items() if count} == PLACED[name]


def test_pruning_at_equal_memory_is_one_override_away() -> None:
    method = built(
        "softprune_int4", "small", "method.retention.keep=null", "method.retention.budget=12 frames"
    )
    policy = method.retention.sized(VideoSize(96, 42, 100, 320))
    placements = policy.decide(History(range(42), 42))
    assert list(placements.values()).count(KEEP) == 12
    assert DROP not in placements.values()


def test_the_tiers_hold_the_bits_that_the_names_say() -> None:
    four = built("age_int4", "small")
    assert (four.key.bits, four.tiers["recent"].key.bits) == (4, 8)
    two = built("prune_int2", "small")
    assert (two.key.bits, two.tiers["high"].key.bits, two.tiers["high"].value.bits) == (2, 4, 4)
    sunk = built("rtn_int2_sink", "small")
    assert sunk.key.bits == 2 and sunk.tiers["exact"].key == Exact()
    spatial = built("spatial_kivi_int4_int2", "small")
    assert (spatial.key.axis, spatial.value.axis, spatial.keys) == ("tokens", "channels", "roped")
    tier = spatial.tiers["foreground"]
    assert (tier.key.axis, tier.value.axis, tier.value.bits, spatial.value.bits) == (
        "tokens",
        "channels",
        4,
        2,
    )
