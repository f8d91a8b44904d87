"""The protocol behind VBench's published totals, and how the videos of a run differ from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Protocol:
    """The videos that a total rests on. They may be made from any wording of their prompts.

    samples: videos per prompt. samples_of: the same for dimensions with another number.
    filtered: dimensions that count only videos which a filter finds still.
    seed: set once before the list of each dimension, so a video's noise depends on its place there.

    Source  VBench's prompts/README.md; Huang et al. 2024.
    """

    samples: int = 5
    samples_of: Mapping[str, int] = field(default_factory=dict)
    filtered: tuple[str, ...] = ()
    seed: int = 2

    def differences(
        self, rows: Sequence[Mapping[str, Any]], official: Mapping[str, frozenset[str]]
    ) -> list[str]:
        """Return a sentence for each way in which a run's videos differ from the protocol.

        rows: rows of scores with `prompt` (in the wording that dimensions know), `sample`,
        `vbench_<dimension>` and `vbench_<dimension>_protocol`. official: the prompts of each
        dimension (`official_prompts`).
        """
        found = [
            f"published totals set seed {self.seed} once for each dimension's list, and here each "
            "video has its own: means can be compared, single videos cannot"
        ]
        by_clips: set[str | None] = set()
        for name, prompts in official.items():
            scored = [
                row
                for row in rows
                if row["prompt"] in prompts
                and (value := row.get(f"vbench_{name}")) is not None
                and math.isfinite(value)
            ]
            # A dimension that the run does not have is missing from its totals, which say so.
            if not scored:
                continue
            # The prompt with the fewest videos counts: their mean number would hide it.
            of_prompt = Counter(row["prompt"] for row in scored)
            if len(of_prompt) < len(prompts):
                found.append(f"{name} has {len(of_prompt)} of {len(prompts)} prompts")
            wanted, fewest = self.samples_of.get(name, self.samples), min(of_prompt.values())
            if fewest < wanted:
                found.append(f"{name} has {fewest} videos of a prompt, published totals {wanted}")
            if name in self.filtered:
                found.append(f"{name} counts every video, published totals only still ones")
            by_clips |= {row.get(f"vbench_{name}_protocol") for row in scored}
        if clips := sorted(name for name in by_clips if name and name != "whole"):
            found.append(f"videos were scored by {', '.join(clips)}, as VBench-Long")
        return found


PUBLISHED = Protocol(
    samples_of={"temporal_flickering": 25},
    filtered=("temporal_flickering",),
)
