"""VBench's sixteen dimensions, with their meanings, requirements and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Another release may compute other values, so `environment.missing` refuses it.
VERSION = "0.1.5"
# No package index offers it, so `make vbench` cannot install it.
DETECTRON2 = "detectron2"


@dataclass(frozen=True)
class Dimension:
    """One dimension of the package.

    group: `semantic` dimensions apply to videos of certain official prompts, `quality` dimensions
    to any video.
    weights: names of files of `conf/weights`.
    packages: packages besides vbench that affect the value.
    full_scale: divisor that maps the package's value to 0..1.
    clip_s: length of the clips of a video of more than ten seconds.
    smallest_px: shortest side that the network accepts; for smaller frames the package turns NaN
    into values.

    Source  the package's modules; clip lengths: VBench-Long's `clip_length_mix.yaml`.
    """

    name: str
    group: Literal["quality", "semantic"]
    meaning: str
    weights: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    full_scale: float = 1.0
    clip_s: int = 2
    smallest_px: int = 0


_CLIP_B, _CLIP_L = "vbench/clip_vit_b_32", "vbench/clip_vit_l_14"
_VICLIP = ("vbench/viclip", "vbench/clip_vocabulary")
_STAYS = "features of a frame against the frame before and the first, cosine"


def _detected(name: str, seen: str) -> Dimension:
    meaning = f"share of 16 frames in which GRiT {seen}"
    return Dimension(name, "semantic", meaning, ("vbench/grit",), (DETECTRON2,))


_ALL = (
    Dimension(
        "subject_consistency",
        "quality",
        f"DINO {_STAYS}",
        ("vbench/dino", "vbench/dino_code"),
    ),
    Dimension(
        "background_consistency",
        "quality",
        f"CLIP {_STAYS}",
        (_CLIP_B,),
        ("openai-clip",),
    ),
    Dimension(
        "temporal_flickering",
        "quality",
        "1 less the mean absolute difference of neighbouring frames; made for still scenes",
    ),
    Dimension(
        "motion_smoothness",
        "quality",
        "1 less the error of AMT-S when it fills in every second frame",
        ("vbench/amt_s",),
        # It pads to a multiple of 16: 113 becomes 128, below which the coarsest level of its
        # correlations is one cell wide and gives NaN, which the package takes for a value.
        smallest_px=113,
    ),
    Dimension(
        "dynamic_degree",
        "quality",
        "1 if RAFT sees large motion often enough, else 0; not better or worse for one video",
        ("vbench/raft_things",),
        ("easydict",),
        # As above, but it pads to a multiple of 8.
        smallest_px=121,
    ),
    Dimension(
        "aesthetic_quality",
        "quality",
        "LAION's aesthetic score of frames, by CLIP",
        (_CLIP_L, "vbench/laion_aesthetic"),
        ("openai-clip",),
    ),
    Dimension(
        "imaging_quality",
        "quality",
        "MUSIQ's technical quality of frames, trained on SPAQ",
        ("vbench/musiq_spaq",),
        ("pyiqa",),
        full_scale=100.0,
    ),
    _detected("object_class", "finds the object"),
    _detected("multiple_objects", "finds both objects"),
    _detected("color", "names the object's colour, of those where it names any"),
    _detected("spatial_relationship", "finds the objects where they were to stand"),
    Dimension(
        "human_action",
        "semantic",
        "1 if the action is among UMT's five likeliest with probability 0.85 or more, else 0",
        ("vbench/umt",),
        ("timm",),
        clip_s=10,
    ),
    Dimension(
        "scene",
        "semantic",
        "share of 16 frames whose Tag2Text caption names the scene",
        ("vbench/tag2text", "vbench/bert_base_uncased"),
        ("timm", "fairscale", "transformers"),
    ),
    Dimension(
        "appearance_style",
        "semantic",
        "CLIP, frame against the style's words, cosine",
        (_CLIP_B,),
        ("openai-clip",),
    ),
    Dimension(
        "temporal_style", "semantic", "ViCLIP, video against prompt, cosine", _VICLIP, clip_s=10
    ),
    Dimension(
        "overall_consistency",
        "semantic",
        "ViCLIP, video against prompt, cosine",
        _VICLIP,
        clip_s=10,
    ),
)
DIMENSIONS = {dimension.name: dimension for dimension in _ALL}
