"""Share of a story's events that a vision-language judge sees completed in its video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.results.scores import Column, Value
from harness.scoring.judge.judge import Judge, Verdict
from harness.scoring.judge.question import TEMPLATE_SHA256
from harness.scoring.metrics.metric import Clip, Metric, Unscorable
from harness.system.errors import UserError

NO_EVENTS = (
    "the prompt has no events: choose suite=storyeval, or type suite.events=true for stories of "
    "your own"
)


class StoryEval(Metric):
    """The events come with the prompt, split from its line by rules of ours; so does their number.

    An event is completed if most of the votes say so.
    Source  the task of Wang et al. 2024, not their procedure: docs/storyeval.md says what differs.
    Raises  UserError: an even number of votes, or several that cannot differ.
    """

    name = "storyeval"

    def __init__(self, judge: Judge, num_votes: int = 1) -> None:
        """Asks nobody yet."""
        if num_votes < 1 or num_votes % 2 == 0:
            raise UserError(
                f"metrics.storyeval.num_votes={num_votes}: give an odd number: one side wins"
            )
        if num_votes > 1 and not judge.answers_vary:
            raise UserError(
                f"metrics.storyeval.num_votes={num_votes} would hear one answer {num_votes} times: "
                "type judge.temperature=0.7, or metrics.storyeval.num_votes=1"
            )
        self.judge, self.num_votes = judge, num_votes
        self.one_at_a_time = judge.one_at_a_time

    def columns(self) -> tuple[Column, ...]:
        """The share first, then what it is made of."""
        return (
            Column("storyeval_completion", "share of the events completed", "", "higher"),
            Column("storyeval_all_completed", "1 if every event is", "", "higher", int),
            Column("storyeval_num_events", "events of the prompt", "events", None, int),
            Column("storyeval_completed", "each event, 1 if completed", "", "higher", list[float]),
            Column("storyeval_agreement", "share of votes that go with the majority"),
            Column("storyeval_explanation", "the judge's words", "", None, str),
        )

    def version(self) -> str:
        """Who judges, what it is asked and how often."""
        return f"{self.judge.identity()}; question {TEMPLATE_SHA256[:12]}; {self.num_votes} votes"

    def missing(self) -> str | None:
        """No judge, or one that cannot be asked."""
        return self.judge.missing()

    def weights(self) -> dict[str, str]:
        """Those of a judge on this machine."""
        return self.judge.weights()

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Ask the judge, as often as votes are wanted; see `columns`.

        The agreement of a single vote is None. Raises  Unscorable: no events, no frames,
        or an answer that cannot be read; nothing stands in for a vote.
        """
        if not clip.events:
            raise Unscorable(NO_EVENTS)
        if not len(clip.frames_THWC):
            raise Unscorable("the video has no frames")
        verdicts = [
            self.judge.completed(clip.events, clip.frames_THWC, vote, device)
            for vote in range(self.num_votes)
        ]
        votes_VE = np.array([verdict.completed for verdict in verdicts])
        share_E = votes_VE.mean(axis=0)
        completed_E = share_E > 0.5
        agreement = float(np.maximum(share_E, 1 - share_E).mean())
        return {
            "storyeval_completion": float(completed_E.mean()),
            "storyeval_all_completed": int(completed_E.all()),
            "storyeval_num_events": len(clip.events),
            "storyeval_completed": [float(each) for each in completed_E],
            "storyeval_agreement": agreement if self.num_votes > 1 else None,
            "storyeval_explanation": _explained(verdicts),
        }

    def close(self) -> None:
        """Let the judge go."""
        self.judge.close()


def _explained(verdicts: Sequence[Verdict]) -> str:
    """The words of all votes."""
    if len(verdicts) == 1:
        return verdicts[0].explanation
    return "\n".join(f"vote {i}: {each.explanation}" for i, each in enumerate(verdicts, 1))
