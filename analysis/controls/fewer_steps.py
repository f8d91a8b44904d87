"""Finds runs of a plain method on fewer denoising steps: the simplest way to save passes.

Such a run has another schedule, so it lies in another section, with its own BF16 videos. Its noise
is the same as with all steps, so its videos can be compared with the BF16 videos of the full
schedule. The distances are measured here, from the stored frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.section import Section
from analysis.statistics import KEPT
from harness.api import Method as Parts
from harness.cache.attention.portable import Portable
from harness.models.preset import VideoModel
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Needs, network
from harness.planning.roofline import work
from harness.results.quantities import is_fidelity
from harness.results.run import Run
from harness.results.video_files import frames_file, read_frames
from harness.scoring.metrics import psnr, ssim

NEAR = 4  # numbers of steps to try on each side of the likely one
# Name of the setting, both in a stored request and as a field of the schedule.
NUM_STEPS = "num_steps"


def num_steps(request: Run) -> int | None:
    """Return the steps of a run's schedule; None if its steps are a list of times."""
    found = request.model["schedule"].get(NUM_STEPS)
    return None if found is None else int(found)


def shorter(section: Section, others: Sequence[Section]) -> list[Section]:
    """Return the other sections that differ only in their number of denoising steps."""
    # Equal work without the steps, and still another section: the steps are all that differs.
    own = _work(section)
    return [
        other
        for other in others
        if own is not None and other is not section and _work(other) == own
    ]


@lru_cache(maxsize=KEPT)
def with_fewer_steps(section: Section) -> Section:
    """Return a section extended by the runs of its `shorter` sections.

    They have the quantities of their own section, except that PSNR and SSIM are to the BF16 videos
    of the full schedule, and that there is no other distance to BF16.
    Raises  UserError: the frames of a video are damaged.
    """
    if not section.shorter:
        return section
    # The noise of prompt and seed is the same, so videos pair across the two sections.
    base = section.methods[section.reference].folder if section.reference else None
    methods, tables = dict(section.methods), [section.videos]
    for other in section.shorter:
        for name, method in other.methods.items():
            # Without both folders there are no frames to compare; a name of both sections stays the
            # first's.
            if base is None or method.folder is None or not method.num_videos or name in methods:
                continue
            methods[name], folder = method, method.folder
            rows = other.videos.loc[[name]]
            # The first level of the index is the method, the others name the video.
            measured = [_distances(folder, base, *index[1:]) for index in rows.index]
            # Distances to BF16 videos of the short schedule would look like those of a better run.
            kept = rows.drop(columns=[x for x in rows if is_fidelity(str(x))])
            tables.append(kept.join(pd.DataFrame(measured, index=rows.index)))
    videos = pd.concat(tables)
    added = [name for name in methods if name not in section.methods]
    # The section's own values stay: they may be single numbers that are no means.
    means = (
        videos.groupby(level="method", sort=False).mean().reindex(columns=section.values.columns)
    )
    values = pd.concat([section.values, means.loc[added]])
    return replace(section, methods=methods, videos=videos, values=values)


def steps_of_cost(
    model: VideoModel, parts: Parts, num_frames: int, share: float, recached: Sequence[int] = ()
) -> int | None:
    """Return the number of steps whose planned FLOPs are nearest to a share of those of all steps.

    None if no other number of steps can run.
    parts: the method, which skips no pass. recached: as in `VideoModel.passes`.
    """
    # The network is built once: its sizes do not depend on the number of steps.
    counted = network(model)

    def planned(timed: VideoModel) -> float:
        # The planner's FLOPs depend neither on the backend nor on activations, so any backend will
        # do and decoder and activations are left out.
        budget = Budget(timed, Needs(counted, None, None, ()), parts, Portable())
        histories = budget.histories(Contract(best=True, window=timed.window), num_frames)
        needed = work(timed, counted, budget.storage, histories, num_frames, Portable(), recached)
        return needed.gemm_flops + needed.attention_flops

    # FLOPs are nearly proportional to steps, so the answer is near the same share of the steps.
    full = getattr(model.schedule, NUM_STEPS)
    wanted, likely = share * planned(model), round(share * full)
    costs: dict[int, float] = {}
    for steps in range(max(2, likely - NEAR), min(full, likely + NEAR + 1)):
        schedule: Any = model.schedule
        try:
            short = replace(model, schedule=replace(schedule, num_steps=steps))
            # Counting the passes is the cheapest way to learn whether the order of passes takes
            # these steps.
            short.loop.num_passes(short.schedule, num_frames, short.chunk_frames)
        except ValueError:  # steps that the order of passes cannot split evenly
            continue
        # Outside of the `try`: an error of the planner is no refusal of the steps.
        costs[steps] = planned(short)
    return min(costs, key=lambda steps: abs(costs[steps] - wanted), default=None)


def _work(section: Section) -> Mapping[str, Any] | None:
    """Return the settings of a section without its number of steps; None if unknown."""
    # All runs of a section share model and suite, so any request will do.
    request = next((each.request for each in section.methods.values() if each.request), None)
    if request is None or num_steps(request) is None:
        return None
    schedule = {key: x for key, x in request.model["schedule"].items() if key != NUM_STEPS}
    suite = request.suite
    return {
        **{key: value for key, value in request.model.items() if key != "schedule"},
        "schedule": schedule,
        "suite": (suite.name, suite.sha256, suite.num_frames, request.seed),
        "switches": (suite.switches, suite.recache),
    }


def _distances(folder: Path, base: Path, prompt: int, sample: int) -> dict[str, float]:
    """Compare a video with that of the full schedule; empty if the frames of one are missing."""
    paths = [each / "videos" / f"{prompt:04d}-{sample}" for each in (folder, base)]
    # Frames may have been deleted after scoring; the pair then has no distance rather than an
    # error.
    if any(frames_file(path) is None for path in paths):
        return {}
    video, full = (read_frames(path) for path in paths)
    return {
        # As the metric defines it: decibels of the whole video's mean error, not a mean of
        # decibels.
        "psnr_db": psnr.from_mse(float(psnr.per_frame_mse(video, full).mean())),
        "ssim": float(ssim.per_frame(video, full, ssim.Ssim().window).mean()),
    }
