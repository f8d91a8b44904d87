"""Prepares the published study's fidelity for ranking.

The study's PSNR is a mean over frames in decibels. One frame that equals its reference makes the
video infinite, and then the method, whatever the other 164 frames are. Infinite values cannot be
ranked. Here PSNR is therefore the mean over the prompts on which no method is infinite, the same
prompts for all methods. Where all values are finite this is the published mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.section import Section

# Quantity -> column of `Published.methods`.
METRICS = {"psnr_frame_mean_db": "psnr", "ssim": "ssim", "lpips": "lpips"}


@dataclass(frozen=True)
class Published:
    """One suite of the study without its reference, whose PSNR is infinite by construction.

    methods: indexed by published name; family, n_videos, psnr in dB, ssim, lpips.
    infinite_prompts: left out of PSNR.
    num_prompts: of the whole suite.
    """

    suite: str
    methods: pd.DataFrame
    infinite_prompts: list[int]
    num_prompts: int

    @property
    def partial(self) -> pd.Index:
        """Methods that have fewer videos than the suite has prompts."""
        return self.methods.index[self.methods["n_videos"] < self.num_prompts]


def fidelity(sections: Sequence[Section]) -> dict[str, Published]:
    """Return the study's fidelity by suite; PSNR is over prompts where every method is finite."""
    found = {}
    for section in sections:
        methods = {name: x for name, x in section.methods.items() if name != section.reference}
        psnr = section.videos["psnr_frame_mean_db"].unstack("method")[list(methods)]
        infinite = pd.Series(np.isinf(psnr.to_numpy()).any(axis=1), psnr.index)
        values = section.values.loc[list(methods), list(METRICS)].rename(columns=METRICS)
        described = {
            "family": [method.family for method in methods.values()],
            "n_videos": [method.num_videos for method in methods.values()],
        }
        table = pd.DataFrame(described, index=list(methods)).join(values)
        found[section.suite] = Published(
            section.suite,
            table.assign(psnr=psnr[~infinite].mean()),
            sorted({int(prompt) for prompt, _ in infinite.index[infinite]}),
            # The study does not say how many prompts a suite has; its complete methods do.
            max((method.num_videos for method in methods.values()), default=0),
        )
    return found
