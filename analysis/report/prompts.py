"""Builds a page per prompt: the reference and all methods in step, each with its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.report import links
from analysis.report.numbers import number
from analysis.report.overview import label
from analysis.report.pages import page
from analysis.report.parts import Part

# Quantities beneath a video; the card shows all of them.
SHORT = (
    *("ratio", "peak_gib", "runtime_s", "psnr_db", "psnr_frame_mean_db", "ssim", "lpips"),
    *("background", "imaging", "subject", "aesthetic"),
)
Files = Mapping[tuple[str, int, int], str]  # path by method, prompt and sample
# Videos that play at first: about twelve of 480x832, or all small ones.
MOST_PIXELS = 12 * 480 * 832
NARROW, WIDE = 200, 420  # bounds of a tile's initial width in CSS pixels
STEP = 20  # of the slider that changes this width


def prompt_page(part: Part, index: int, cards: Mapping[str, str], files: Files) -> str:
    """Build the page of a prompt.

    cards: slug of every method's card. files: paths of the MP4s from the report's root.
    """
    rows = part.videos[part.videos["prompt_index"] == index]
    shown = rows[rows["mp4"].astype(bool)]
    # Failed samples too: their tiles say why they are missing.
    samples = sorted(int(x) for x in rows["sample"].unique())
    height, width = int(shown["height"].max()), int(shown["width"].max())
    # BF16 first, and the rest in the order of the table.
    names = sorted(part.section.methods, key=lambda name: name != part.section.reference)
    # The browser decodes all videos at once, so a page starts with as many as it can play.
    few = names[: max(2, MOST_PIXELS // (height * width * len(samples)))]
    tiles = [
        _tile(part, name, sample, index, rows, files)
        | {"slug": cards[name], "href": f"../{links.card(cards[name])}", "is_shown": name in few}
        | {"label": f"sample {sample}" if len(samples) > 1 else ""}
        for sample in samples
        for name in names
    ]
    frames, fps = int(shown["num_pixel_frames"].max()), float(shown["fps"].iloc[0])
    indices = list(part.prompts)
    place = indices.index(index)
    return page(
        "prompt.html",
        "../",
        suite=label(part),
        section=part.section.title,
        part_id=part.key,
        index=index,
        text=part.prompts[index],
        said=f"{shown['method'].nunique()} of {len(names)} methods have a video: {width}x{height}, "
        f"{frames} frames, {fps:g} a second.",
        fps=fps,
        frames=frames,
        shape=f"{width} / {height}",
        # Half the true size, on a step of the slider: several tiles fit beside each other.
        width=min(WIDE, max(NARROW, width // 2 // STEP * STEP)),
        methods=[{"name": x, "slug": cards[x], "is_shown": x in few} for x in names],
        tiles=tiles,
        before=_beside(part, indices[:place][-1:]),
        after=_beside(part, indices[place + 1 :][:1]),
    )


def _tile(
    part: Part, name: str, sample: int, index: int, rows: pd.DataFrame, files: Files
) -> dict[str, Any]:
    """Describe one video, or explain why it is missing."""
    own = rows[(rows["method"] == name) & (rows["sample"] == sample)]
    file = files.get((name, index, sample), "")
    # `get_indexer` gives -1 for a video without numbers, where `loc` would raise.
    key = pd.MultiIndex.from_tuples([(name, index, sample)])
    at = int(part.section.videos.index.get_indexer(key)[0])
    made = part.section.videos.iloc[at] if at >= 0 else None
    why = "No video of this prompt was made by this method."
    if len(own) and not file:
        cause, reason = own["failure"].iloc[0], own["failure_reason"].iloc[0]
        why = f"Failed: {cause}. {reason if pd.notna(reason) else 'No reason was left.'}"
    elif made is not None:
        why = "The video was made; its MP4 is missing."
    return {
        "name": name,
        "src": f"../{file}" if file else "",
        "why": why,
        "frames": int(own["num_pixel_frames"].iloc[0]) if file else 1,
        "is_reference": name == part.section.reference,
        "numbers": [
            (each.title, f"{number(value, each.places(value))} {each.unit}".strip())
            for each in part.numbers.quantities
            if made is not None and each.name in SHORT and each.name in made
            if pd.notna(value := float(made[each.name]))
        ],
    }


def _beside(part: Part, indices: list[int]) -> str:
    """Return the path of a neighbouring prompt's page."""
    return f"{part.key}-{indices[0]:03d}.html" if indices else ""
