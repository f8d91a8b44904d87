"""Any prompt to a scene: known words mean what they say, the rest is drawn from the prompt itself.

Reading is by rule, clause by clause: a clause with a noun of the world is a thing, adjectives
before the noun and verbs behind it are its own; "then" begins the next event. What a prompt leaves
open is decided by a hash of the prompt: the same prompt is the same scene on every machine, and
two prompts of no known word are two scenes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

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
    """A thing while it is read: what the prompt said of it."""

    noun: str
    said: dict[str, str] = field(default_factory=dict)
    side: float | None = None
    events: dict[str, Any] = field(default_factory=dict)


def interpret(prompt: str) -> Scene:
    """The scene of a prompt; a pure function of its words, letter case and spaces aside."""
    text = " ".join(prompt.lower().split())
    camera, rest = _camera(text)
    reader = _Reader()
    for word in re.findall(r"[a-z]+|[,.;:]", rest):
        reader.read(word)
    drafts = reader.drafts or [_Draft(word) for word in _unknown(rest)]
    chance = _Chance(text)
    things = tuple(_thing(draft, i, chance) for i, draft in enumerate(drafts[:MOST]))
    return Scene(
        place=chance.choose("place", reader.setting, "scene"),
        light=reader.setting.get("light", "steady"),  # type: ignore[arg-type]
        camera=camera or "still",  # type: ignore[arg-type]
        things=things,
    )


def _camera(text: str) -> tuple[str | None, str]:
    """What the camera does, and the text without those words."""
    found = _MOVES.search(text)
    if found:
        return found[1] or found[2], text[: found.start()] + "," + text[found.end() :]
    if _CLOSE.search(text):
        return "in", text
    return ("out" if _WIDE.search(text) else None), text


class _Reader:
    """Reads word by word; knows the thing it is at and the adjectives that wait for a noun."""

    def __init__(self) -> None:
        self.drafts: list[_Draft] = []
        self.setting: dict[str, str] = {}
        self._adjectives: dict[str, str] = {}
        self._side: float | None = None
        self._last: _Draft | None = None
        self._event = 0
        self._turning = False
        self._fresh = False  # no noun yet in this clause

    def read(self, word: str) -> None:
        """The next word or punctuation mark."""
        if word in CLAUSE or not word.isalpha():
            self._adjectives, self._side, self._fresh, self._turning = {}, None, True, False
            self._event += word in THEN
        elif self._last and self._event and word in TURNS:
            self._turning = True
        elif self._last and self._event and word in LEAVES:
            self._turning = False
            self._last.events.setdefault("leaves", min(self._event, 2))
        elif word in _SIDES:
            self._side = _SIDES[word]
            if self._last and not self._fresh and self._last.side is None:
                self._last.side = self._side
        elif known := meaning(word):
            self._take(word, *known)

    def _take(self, word: str, facet: str, value: str) -> None:
        if facet == "shape":
            self._noun(word, value)
        elif facet == "colour" and self._turning and self._last:
            self._last.events |= {"turns": min(self._event, 2), "second": value}
            self._turning = False
        elif facet in ("place", "light"):
            self.setting.setdefault(facet, value)
        elif facet in ("motion", "pace") and self._last:
            self._last.said.setdefault(facet, value)
        else:
            self._adjectives[facet] = value

    def _noun(self, word: str, shape: str) -> None:
        known = [draft for draft in self.drafts if draft.noun == word]
        if not known:
            said = {"shape": shape, **self._adjectives}
            events = {"enters": min(self._event, 2)}
            self.drafts.append(_Draft(word, said, self._side, events))
        self._last = known[0] if known else self.drafts[-1]
        self._adjectives, self._fresh = {}, False


def _unknown(text: str) -> list[str]:
    """Stand-ins for a prompt without a known noun: its first one or two words of some weight."""
    words = [w for w in re.findall(r"\w{3,}", text) if w not in COMMON | CLAUSE]
    return list(dict.fromkeys(words))[:2] or ["nothing"]


def _thing(draft: _Draft, index: int, chance: _Chance) -> Thing:
    """The thing of a draft; what was not said is drawn."""
    name = f"{draft.noun} {index}"
    slots = sorted(range(MOST), key=lambda i: chance.number(f"slot {i}"))
    wander = chance.number(f"x {name}") - 0.5
    x = (slots[index] / (MOST - 1) if draft.side is None else draft.side) + 0.2 * wander
    said = draft.said
    return Thing(
        **{
            facet: chance.choose(facet, said, name)
            for facet in ("shape", "colour", "size", "texture", "motion", "pace")
        },
        x=min(1.0, max(0.0, x)),
        y=chance.number(f"y {name}"),
        phase=chance.number(f"phase {name}"),
        **draft.events,
    )


class _Chance:
    """Numbers that a text decides: hashes of it and of what they are for."""

    def __init__(self, text: str) -> None:
        self._text = text

    def number(self, what: str) -> float:
        """In 0..1, in steps of 2^-16, exact everywhere."""
        digest = hashlib.sha256(f"{self._text}|{what}".encode()).digest()
        return int.from_bytes(digest[:2], "big") / 65536

    def choose(self, facet: str, said: dict[str, str], whose: str) -> Any:
        """What was said of a facet, or one of its values."""
        values = _ALL[facet]
        return said.get(facet) or values[int(self.number(f"{facet} {whose}") * len(values))]
