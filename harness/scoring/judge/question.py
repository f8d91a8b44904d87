"""Writes the question for judges and parses their answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from harness.scoring.judge.judge import Verdict
from harness.scoring.metrics.metric import Unscorable

TEMPLATE = """\
You see {num_frames} frames of one video in the order of time, evenly spaced from its first frame \
to its last. The video was asked to show these events, one after the other:
{events}
Judge each event by itself. It is completed only if the frames show it happening, with the one who \
acts, the action and its result. It is not completed if it can only be guessed, if it merely \
begins, or if somebody or something else does it. Words such as "it" refer to the events before.
Answer with this JSON object and nothing else, one entry for each of the {num_events} events, in \
their order:
{{"events": [{{"event": 1, "reason": "what the frames show, in one sentence", "completed": true}}]}}
"""
# Part of the metric's version: another question is another metric.
TEMPLATE_SHA256 = hashlib.sha256(TEMPLATE.encode()).hexdigest()
QUOTED_CHARACTERS = 80
_FENCED = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)


def question(events: Sequence[str], num_frames: int) -> str:
    """Return the question that accompanies the frames."""
    # Numbered, because the answer has to name the events by their numbers.
    listed = "\n".join(f"{number}. {event}" for number, event in enumerate(events, 1))
    return TEMPLATE.format(num_frames=num_frames, num_events=len(events), events=listed)


def read(answer: str, num_events: int) -> Verdict:
    """Parse the verdict from an answer.

    Raises  Unscorable: the answer has no JSON, or not one entry per event, in order.
    """
    # Strict about the list, because a guessed verdict would be a wrong value in a table.
    content = _json(answer)
    entries = content.get("events") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise Unscorable(f"the judge's answer has no JSON list of events: {first_words(answer)}")
    if len(entries) != num_events:
        raise Unscorable(
            f"the judge's answer is about {len(entries)} events instead of {num_events}: "
            f"{first_words(answer)}"
        )
    completed, reasons = [], []
    for number, entry in enumerate(entries, 1):
        said = entry.get("completed") if isinstance(entry, dict) else None
        # Models skip or reorder events; a verdict about another event must not count.
        if said not in (True, False) or entry.get("event", number) != number:
            raise Unscorable(
                f"the judge's answer does not say true or false of event {number}: "
                f"{first_words(answer)}"
            )
        completed.append(bool(said))
        reasons.append(f"{number}: {entry.get('reason') or 'no reason given'}")
    return Verdict(tuple(completed), " ".join(reasons))


def first_words(text: str) -> str:
    """Return the beginning of a text on one line, quoted."""
    line = " ".join(text.split())
    cut = line[:QUOTED_CHARACTERS].rstrip()
    return repr(line if len(line) <= QUOTED_CHARACTERS else f"{cut}...")


def _json(answer: str) -> Any:
    """Return the JSON of an answer, also from a code fence or other text; None if there is none."""
    # Models put JSON in a code fence or between sentences, even if asked for nothing else.
    fenced = _FENCED.search(answer)
    outer = answer[answer.find("{") : answer.rfind("}") + 1]
    for text in (answer, fenced[1] if fenced else "", outer):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None
