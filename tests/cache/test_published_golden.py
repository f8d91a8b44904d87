"""The study's own quantizers and policies, recorded on a synthetic rollout: 23 of its 33 methods.

What `conf/method/published` builds, driven through the layers that integration=published runs, must
store what the original stored after 20 encodings, and count its bytes alike.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.cache.published import Dense
from harness.cache.published.layer import Layer
from tests.support.geometry import CPU, configured, spec

NAMES = [
    *("RTN_INT4", "RTN_INT2", "KIVI_INT4", "KIVI_INT2", "QUAROT_KV_INT4", "QUAROT_KV_INT2"),
    *("PRQ_INT4", "PRQ_INT2", "QAQ_INT4", "QAQ_INT2"),
    *("AGE_TIER_INT4", "AGE_TIER_INT2", "TPTQ_INT2"),
    *("SPATIAL_MIXED_FG_RTN_INT4_BG_RTN_INT2", "SPATIAL_MIXED_FG_RTN_INT4_BG_RTN_INT4"),
    "SPATIAL_MIXED_FG_KIVI_INT4_BG_KIVI_INT2",
    "SPATIAL_MIXED_FG_QUAROT_KV_INT4_BG_RTN_INT2",
    *("FLOWCACHE_HYBRID_INT2", "FLOWCACHE_ADAPTIVE_INT2"),
    *("FLOWCACHE_PRUNE_INT2", "FLOWCACHE_PRUNE_INT4"),
    *("FLOWCACHE_SOFT_PRUNE_INT2", "FLOWCACHE_SOFT_PRUNE_INT4"),
]
TOLERANCE = 1e-2  # promised; on the processors tried, every recorded value came back bit for bit


@pytest.fixture(scope="module")
def recording(golden: Any) -> dict[str, Any]:
    found: dict[str, Any] = golden("study_methods.pt")
    return found


def layers(name: str, recording: dict[str, Any]) -> list[Layer]:
    """Of the method's own file, with the layers' budgets of the recording."""
    budget = list(recording["layer_budget"].values())
    words = [f"method.retention.layers={budget}"] if name.startswith("FLOWCACHE") else []
    config = configured(f"method=published/{name.lower()}", *words)
    method, integration = instantiate(config["method"]), instantiate(config["integration"])
    size = recording["geometry"]
    shape = spec(
        num_layers=size["layers"],
        num_heads=size["heads"],
        head_dim=size["head_dim"],
        grid=(4, size["tokens_per_frame"] // 4),
        chunk_frames=size["frames_per_block"],
    )
    method.check(shape)
    integration.check(shape, method)
    return integration.session(shape, method, Dense(), size["capacity_frames"], CPU)._layers


def test_every_recorded_method_is_here(recording: dict[str, Any]) -> None:
    assert set(NAMES) == set(recording["methods"])


@pytest.mark.parametrize("name", NAMES)
def test_stores_what_the_original_stored(name: str, recording: dict[str, Any]) -> None:
    wanted = recording["methods"][name]
    chunk = recording["geometry"]["frames_per_block"]
    last = recording["geometry"]["passes_per_block"] - 1
    ours, counted, found = layers(name, recording), [], {}
    for record in recording["inputs"]:
        block, commit = record["block"], record["step"] == last
        for i, layer in enumerate(ours):
            k, v = (record[side][i].transpose(1, 2) for side in "kv")
            layer.step(k, v, range(chunk * block, chunk * (block + 1)), commit)
        if commit:
            counted.append([layer.count.total for layer in ours])
            found[block] = [layer.read(k, v) for layer in ours]
    assert counted == wanted["bytes_per_block"]
    for block, after in zip((0, max(found)), wanted["after_block"], strict=True):
        assert counted[block] == after["bytes"]
        for i, sides in enumerate(found[block]):
            for side, dense in zip("kv", sides, strict=True):
                original = after[side][i].transpose(1, 2)
                error = (dense[:, :, : original.shape[2]] - original).float().norm()
                assert error <= TOLERANCE * original.float().norm()


def test_bf16_is_the_identity(recording: dict[str, Any]) -> None:
    (first, *_), records = layers("BF16", recording), recording["inputs"][:5]
    for record in records:
        k, v = (record[side][0].transpose(1, 2) for side in "kv")
        first.step(k, v, range(3), record["step"] == 4)
    keys, values = first.read(k, v)
    assert torch.equal(keys[:, :, : k.shape[2]], k) and torch.equal(values[:, :, : v.shape[2]], v)
    assert first.count.total == k.nbytes + v.nbytes
