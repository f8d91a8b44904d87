"""Old names in users' configuration files: accepted, with a warning that shows the new name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.system.logs import log

# New `_target_` of classes, by the one of earlier versions.
TARGETS: Mapping[str, str] = {
    "harness.models.model.VideoModel": "harness.models.VideoModel",
    "harness.models.wan.WanDims": "harness.models.WanDims",
    "harness.models.text.UmT5Text": "harness.models.UmT5Text",
    "harness.models.words.HashText": "harness.models.HashText",
    "harness.models.vae.WanVae": "harness.models.WanVae",
    "harness.models.vae.WanCodec": "harness.models.WanCodec",
    "harness.models.preview.WanPreview": "harness.models.WanPreview",
    "harness.sampler.Schedule": "harness.sampling.Schedule",
    "harness.models.codec.KeyframeDecoder": "harness.small_model.KeyframeDecoder",
    "harness.train.stages.Training": "harness.small_model.training.stages.Training",
    "harness.train.stages.Stage": "harness.small_model.training.stages.Stage",
    "harness.attention.reference.Reference": "harness.cache.attention.Reference",
    "harness.attention.auto.Auto": "harness.cache.attention.Auto",
    "harness.attention.staged.Staged": "harness.cache.attention.Staged",
    "harness.attention.portable.Portable": "harness.cache.attention.Portable",
    "harness.attention.fused.Fused": "harness.cache.attention.Fused",
    "harness.integration.Packed": "harness.cache.Packed",
    "harness.published.Published": "harness.cache.published.Published",
    "harness.metrics.storyeval.StoryEval": "harness.scoring.metrics.storyeval.StoryEval",
    "harness.metrics.ssim.Ssim": "harness.scoring.metrics.ssim.Ssim",
    "harness.metrics.ssim.SsimGaussian": "harness.scoring.metrics.ssim.SsimGaussian",
    "harness.metrics.psnr.Psnr": "harness.scoring.metrics.psnr.Psnr",
    "harness.metrics.lpips.Lpips": "harness.scoring.metrics.lpips.Lpips",
    "harness.metrics.vbench.Dimension": "harness.scoring.metrics.vbench.Dimension",
    "harness.metrics.vbench.ImagingQuality": "harness.scoring.metrics.vbench.ImagingQuality",
    "harness.metrics.drift_published.DriftPublished": (
        "harness.scoring.metrics.drift_published.DriftPublished"
    ),
    "harness.metrics.signals.Signals": "harness.scoring.metrics.signals.Signals",
    "harness.judge.openai.OpenAI": "harness.scoring.judge.openai.OpenAI",
    "harness.judge.nobody.Nobody": "harness.scoring.judge.nobody.Nobody",
    "harness.judge.local.Local": "harness.scoring.judge.local.Local",
}
LOOP = "harness.sampling.Loop"
# Loop classes of earlier versions, with the settings of `Loop` that replace them.
LOOPS: Mapping[str, Mapping[str, Any]] = {
    "harness.loops.RollingLoop": {"offset": 1, "joint": True},
    "harness.loops.RestartLoop": {"frames": 21, "overlap": 3},
    "harness.sampler.ChunkLoop": {},
}
# New values, by setting and earlier value.
VALUES: Mapping[tuple[str, str], str] = {("keys", "unroped"): "pre_rope"}

# By process: every job of a sweep composes the same file, and one warning is enough.
_warned: set[str] = set()


def with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration with every old name replaced by the new one.

    Run ids are computed from the result, so a file with old names has the same run id as one with
    new names. The first use of each old name prints a warning to standard error.
    """
    old = config.get("_target_")
    if isinstance(old, str) and old in LOOPS:
        # What the file sets itself comes last, so it wins over what the old class implied.
        settings = {**LOOPS[old], **{name: x for name, x in config.items() if name != "_target_"}}
        # In lower case, because the warning shows YAML: `joint: true`.
        words = [f"{name}: {str(value).lower()}" for name, value in settings.items()]
        _warn(f"_target_: {old}", ", ".join([f"_target_: {LOOP}", *words]))
        config = {"_target_": LOOP, **settings}
    elif isinstance(old, str) and old in TARGETS:
        _warn(f"_target_: {old}", f"_target_: {TARGETS[old]}")
        config = {**config, "_target_": TARGETS[old]}
    return {name: _renamed(name, value) for name, value in config.items()}


def _renamed(name: str, value: Any) -> Any:
    """Return the value of the setting `name`, with new names at any depth."""
    if isinstance(value, Mapping):
        return with_new_names(value)
    if isinstance(value, list):
        return [_renamed(name, each) for each in value]
    new = VALUES.get((name, value)) if isinstance(value, str) else None
    if new is None:
        return value
    _warn(f"{name}: {value}", f"{name}: {new}")
    return new


def _warn(old: str, new: str) -> None:
    if old not in _warned:
        _warned.add(old)
        log.warning(f"{old} is an old name: write {new}")
