"""How the videos of a run differ from the protocol behind VBench's published totals."""

from __future__ import annotations

from typing import Any

from harness.scoring.vbench.protocol import PUBLISHED

OFFICIAL = {
    "imaging_quality": frozenset({"a cat", "a dog"}),
    "temporal_flickering": frozenset({"a stop sign"}),
    "scene": frozenset({"an alley"}),
}


def videos(prompt: str, name: str, number: int, protocol: str = "whole") -> list[dict[str, Any]]:
    values = {f"vbench_{name}": 0.5, f"vbench_{name}_protocol": protocol}
    return [{"prompt": prompt, "sample": sample, **values} for sample in range(number)]


def test_the_published_number_of_videos_differs_by_seeds_and_the_filter_alone() -> None:
    rows = [
        *videos("a cat", "imaging_quality", 5),
        *videos("a dog", "imaging_quality", 5),
        *videos("a stop sign", "temporal_flickering", 25),
    ]
    seeds, still = PUBLISHED.differences(rows, OFFICIAL)
    assert "seed 2" in seeds
    assert still == "temporal_flickering counts every video, published totals only still ones"


def test_each_shortfall_is_a_sentence() -> None:
    rows = [
        *videos("a cat", "imaging_quality", 5, "clips_2s"),
        *videos("a stop sign", "temporal_flickering", 5),
        *videos("a cat", "scene", 5),  # none of its prompts
        {"prompt": "a dog", "sample": 0, "vbench_imaging_quality": float("nan")},
    ]
    assert PUBLISHED.differences(rows, OFFICIAL)[1:] == [
        "imaging_quality has 1 of 2 prompts",
        "temporal_flickering has 5 videos of a prompt, published totals 25",
        "temporal_flickering counts every video, published totals only still ones",
        "videos were scored by clips_2s, as VBench-Long",
    ]
