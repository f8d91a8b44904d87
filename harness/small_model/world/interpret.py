"""Turns any prompt into a scene by rules; a hash of the prompt decides what it leaves open.

A prompt is read clause by clause. A clause with a noun of the world gives a thing, with the
adjectives before the noun and the verbs after it. "then" begins the next part of the clip. The same
prompt gives the same scene on every machine, and two prompts without known words give two scenes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.small_model.scenes.interpret import Chance
from harness.small_model.world.scene import (
    CAMERAS,
    COLOURS,
    LIGHTS,
    MOST,
    MOTIONS,
    PACES,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)
from harness.small_model.world.words import CLAUSE, COMMON, LEAVES, THEN, TURNS, meaning

_ALL: dict[str, Sequence[str]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
    "motion": MOTIONS,
    "pace": PACES,
    "place": PLACES,
    "light": LIGHTS,
    "camera": CAMERAS,
}
_MOVES = re.compile(r"\b(?:pan(?:s|ning)?) (?:to the )?(left|right)|\bzoom(?:s|ing)? (in|out)")
_CLOSE, _WIDE = re.compile(r"\bclose[- ]?ups?\b"), re.compile(r"\b(?:aerial|drone view|wide)\b")
_SIDES = {"left": 0.0, "middle": 0.5, "center": 0.5, "centre": 0.5, "right": 1.0}


@dataclass
class _Draft:
    """A thing while the prompt is read.

    said: the values of facets that the prompt gives.
    side: its position 0..1; None if the prompt gives none.
    events: the fields of `Thing` that say when it enters, leaves or turns to another colour.
    """

    noun: str
    said: dict[str, str] = field(default_factory=dict)
    side: float | None = None
    events: dict[str, Any] = field(default_factory=dict)


def interpret(prompt: str) -> Scene:
    """Return the scene of a prompt, a pure function of it; letter case and spaces do not count."""
    text = " ".join(prompt.lower().split())
    found = _MOVES.search(text)
    if found:
        camera = found[1] or found[2]
        # Remove the move of the camera: "pans left" says nothing about the place of a thing.
        rest = text[: found.start()] + "," + text[found.end() :]
    else:
        camera = "in" if _CLOSE.search(text) else "out" if _WIDE.search(text) else "still"
        rest = text
    reader = _Reader()
    for word in re.findall(r"[a-z]+|[,.;:]", rest):
        reader.read(word)
    drafts = reader.drafts
    if not drafts:
        # A prompt without a known noun still needs things: its first two uncommon words stand for
        # them. The hash of the prompt chooses what they look like.
        words = [word for word in re.findall(r"\w{3,}", rest) if word not in COMMON | CLAUSE]
        drafts = [_Draft(word) for word in list(dict.fromkeys(words))[:2] or ["nothing"]]
    chance = Chance(text, _ALL)
    return Scene(
        place=chance.choose("place", reader.setting, "scene"),  # type: ignore[arg-type]
        light=reader.setting.get("light", "steady"),  # type: ignore[arg-type]
        camera=camera,  # type: ignore[arg-type]
        things=tuple(_thing(draft, i, chance) for i, draft in enumerate(drafts[:MOST])),
    )


class _Reader:
    """Reads word by word; remembers the last thing, and adjectives until their noun comes."""

    def __init__(self) -> None:
        self.drafts: list[_Draft] = []
        self.setting: dict[str, str] = {}
        self._adjectives: dict[str, str] = {}
        self._side: float | None = None
        self._last: _Draft | None = None
        self._event = 0
        self._turning = False
        self._awaits_noun = False

    def read(self, word: str) -> None:
        """Read the next word or punctuation mark."""
        if word in CLAUSE or not word.isalpha():
            self._adjectives, self._side, self._turning = {}, None, False
            self._awaits_noun = True
            self._event += word in THEN
        # A thing is as described in the first part of a clip, so it can change in a later one only.
        elif self._last and self._event and word in TURNS:
            self._turning = True
        elif self._last and self._event and word in LEAVES:
            self._turning = False
            self._last.events.setdefault("leaves", min(self._event, 2))
        elif word in _SIDES:
            self._side = _SIDES[word]
            if self._last and not self._awaits_noun and self._last.side is None:
                self._last.side = self._side
        elif known := meaning(word):
            self._take(word, *known)

    def _take(self, word: str, facet: str, value: str) -> None:
        """Take in a word that means a value of a facet."""
        if facet == "shape":
            # The second "ball" of a prompt is the first one again, not another ball.
            same = [draft for draft in self.drafts if draft.noun == word]
            if not same:
                said = {"shape": value, **self._adjectives}
                events = {"enters": min(self._event, 2)}
                self.drafts.append(_Draft(word, said, self._side, events))
            self._last = same[0] if same else self.drafts[-1]
            self._adjectives, self._awaits_noun = {}, False
        elif facet == "colour" and self._turning and self._last:
            self._last.events |= {"turns": min(self._event, 2), "second": value}
            self._turning = False
        elif facet in ("place", "light"):
            self.setting.setdefault(facet, value)
        elif facet in ("motion", "pace") and self._last:
            self._last.said.setdefault(facet, value)
        else:
            self._adjectives[facet] = value


def _thing(draft: _Draft, index: int, chance: Chance) -> Thing:
    """Complete a draft; the hash decides what the prompt left open."""
    name = f"{draft.noun} {index}"
    # Slots in an order of the prompt's own, so that things stand apart.
    slots = sorted(range(MOST), key=lambda i: chance.number(f"slot {i}"))
    wander = chance.number(f"x {name}") - 0.5
    x = (slots[index] / (MOST - 1) if draft.side is None else draft.side) + 0.2 * wander
    facets: dict[str, Any] = {
        facet: chance.choose(facet, draft.said, name)
        for facet in ("shape", "colour", "size", "texture", "motion", "pace")
    }
    return Thing(
        **facets,
        x=min(1.0, max(0.0, x)),
        y=chance.number(f"y {name}"),
        phase=chance.number(f"phase {name}"),
        **draft.events,
    )
