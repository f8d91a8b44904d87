"""Share of a story's events that a vision-language judge considers completed in its video."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from harness.results.scores import Column, Value
from harness.scoring.judge.judge import Judge
from harness.scoring.judge.question import TEMPLATE_SHA256
from harness.scoring.metrics.metric import Clip, Metric, Unscorable
from harness.system.errors import UserError

NO_EVENTS = (
    "the prompt has no events: choose suite=storyeval, or type suite.events=true for stories of "
    "your own"
)


class StoryEval(Metric):
    """Share of the prompt's events that most of the judge's votes call completed.

    Our own rules split the line of a prompt into events (`harness.prompts.story_events`).

    judge: answers the questions.
    num_votes: questions per video, odd.
    Source  the task of Wang et al. 2024, with a different procedure; see docs/storyeval.md.
    Raises  UserError: an even number of votes, or several votes that cannot differ.
    """

    name = "storyeval"

    def __init__(self, judge: Judge, num_votes: int = 1) -> None:
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
        """Return the columns: the share first, then its parts."""
        return (
            Column("storyeval_completion", "share of the events completed", "", "higher"),
            Column("storyeval_all_completed", "1 if every event is", "", "higher", int),
            Column("storyeval_num_events", "events of the prompt", "events", None, int),
            Column("storyeval_completed", "each event, 1 if completed", "", "higher", list[float]),
            Column("storyeval_agreement", "share of votes that go with the majority"),
            Column("storyeval_explanation", "the judge's words", "", None, str),
        )

    def version(self) -> str:
        """Describe the judge, the question and the number of votes."""
        return f"{self.judge.identity()}; question {TEMPLATE_SHA256[:12]}; {self.num_votes} votes"

    def missing(self) -> str | None:
        """Return the reason if there is no judge or it cannot run, else None."""
        return self.judge.missing()

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of the weights of a local judge, by name."""
        return self.judge.weights()

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Ask the judge `num_votes` times and return the values of `columns`.

        The agreement of a single vote is None.

        Raises  Unscorable: there are no events or no frames, or an answer cannot be read.
        """
        if not clip.events:
            raise Unscorable(NO_EVENTS)
        if not len(clip.frames_THWC):
            raise Unscorable("the video has no frames")
        # An answer that cannot be read ends this video: no vote is left out and none is guessed.
        verdicts = [
            self.judge.completed(clip.events, clip.frames_THWC, vote, device)
            for vote in range(self.num_votes)
        ]
        # Votes by events: the majority decides each event for itself.
        votes_VE = np.array([verdict.completed for verdict in verdicts])
        share_E = votes_VE.mean(axis=0)
        # The number of votes is odd, so no share is a half.
        completed_E = share_E > 0.5
        # Of several votes all explanations are kept, since they may contradict each other.
        explanation = verdicts[0].explanation
        if len(verdicts) > 1:
            explanation = "\n".join(
                f"vote {i}: {each.explanation}" for i, each in enumerate(verdicts, 1)
            )
        agreement = float(np.maximum(share_E, 1 - share_E).mean())
        return {
            "storyeval_completion": float(completed_E.mean()),
            "storyeval_all_completed": int(completed_E.all()),
            "storyeval_num_events": len(clip.events),
            "storyeval_completed": [float(each) for each in completed_E],
            "storyeval_agreement": agreement if self.num_votes > 1 else None,
            "storyeval_explanation": explanation,
        }

    def close(self) -> None:
        """Free the judge."""
        self.judge.close()
