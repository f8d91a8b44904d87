"""The published study's fidelity, a row a method, from its summaries and its per-video values.

Source  arXiv 2603.27469; `summaries.csv` and, beside it, `observations.parquet`.

PSNR is a mean over frames in decibels, so one frame that equals its reference makes a video, and
then the method, infinite: that says nothing of the other 164 frames, and no rank can be had from
it. Here PSNR is therefore the mean over the prompts on which no method is infinite, the same
prompts for all methods. Where nothing is infinite this is the published mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import UserError

OBSERVATIONS = "observations.parquet"  # beside the summaries
REFERENCE = "BF16"  # a family of one, infinite by construction
NAMES = ["benchmark", "method"]
METRICS = ["psnr", "ssim", "lpips"]


@dataclass(frozen=True)
class Published:
    """One suite of the study without its reference.

    methods: indexed by published name; family, n_videos, psnr in dB, ssim, lpips.
    infinite_prompts: left out of PSNR. num_prompts: of the whole suite.
    """

    suite: str
    methods: pd.DataFrame
    infinite_prompts: list[int]
    num_prompts: int

    @property
    def partial(self) -> pd.Index:
        """Methods with fewer videos than the suite has prompts."""
        return self.methods.index[self.methods["n_videos"] < self.num_prompts]


def read(path: Path) -> dict[str, Published]:
    """The study by suite, in the order of its summaries.

    Raises  UserError: no such file, none beside it, or one without the columns.
    """
    try:
        summaries = pd.read_csv(path, usecols=[*NAMES, "family", "n_videos", *METRICS])
        of_videos = path.with_name(OBSERVATIONS)
        videos = pd.read_parquet(of_videos, columns=[*NAMES, "prompt_index", "psnr"])
    except (OSError, ValueError) as error:  # what pandas and pyarrow raise derives from these
        raise UserError(
            f"cannot read the published tables ({' '.join(str(error).split())[:120]}): give "
            f"--published <folder>/summaries.csv of the study, with {OBSERVATIONS} beside it"
        ) from error
    ranked = summaries[summaries["family"] != REFERENCE].set_index("method")
    return {
        str(suite): _suite(str(suite), rows, videos[videos["benchmark"] == suite])
        for suite, rows in ranked.groupby("benchmark", sort=False)
    }


def _suite(suite: str, methods: pd.DataFrame, videos: pd.DataFrame) -> Published:
    """With PSNR over the prompts that are finite for every method."""
    videos = videos[videos["method"].isin(methods.index)]
    infinite = np.isinf(videos["psnr"])
    left_out = sorted(videos.loc[infinite, "prompt_index"].unique())
    finite = videos[~videos["prompt_index"].isin(left_out)]
    psnr = finite.groupby("method")["psnr"].mean()
    return Published(
        suite,
        methods.assign(psnr=psnr).drop(columns="benchmark"),
        [int(index) for index in left_out],
        int(methods["n_videos"].max()),
    )
