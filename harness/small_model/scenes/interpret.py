"""Turns any prompt into a scene by rules; a hash of the prompt decides what it leaves open.

A noun that is a figure becomes a thing. It gets the adjectives before it and the verbs after it.
"then" and "finally" begin the next part of the clip. Every word that names a place, or an object of
a place, votes for that place.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.small_model.scenes.scene import (
    CAMERAS,
    COLOURS,
    EVENTS_S,
    KINDS,
    LIGHTS,
    LIVING,
    MOST,
    PLACES,
    SHELTERED,
    SIZES,
    WEATHERS,
    Act,
    Scene,
    Thing,
)
from harness.small_model.scenes.words import BEFORE_NOUNS, THEN, home, meanings

# What the hash chooses from. "living" and "lifeless" are acts by the nature of a thing.
_ALL: dict[str, Sequence[str]] = {
    "kind": KINDS,
    "colour": COLOURS,
    "size": SIZES,
    "living": ("rest", "walk", "sway", "nod"),  # actions of things without a verb
    # A word that stands three times is chosen as often: most things without a verb lie still.
    "lifeless": ("rest", "rest", "rest", "sway"),
    "place": PLACES,
    "light": LIGHTS,
    "weather": WEATHERS,
    "camera": CAMERAS,
}
# As captions say it, and as prompts do: "the camera pans left", "zooming in".
_MOVES = re.compile(r"\b(?:pan(?:s|ning)?) (?:to the )?(left|right)|\bzoom(?:s|ing)? (in|out)")
_NEAR, _FAR = re.compile(r"\bclose[- ]?ups?\b"), re.compile(r"\b(?:aerial|drone view|wide shot)\b")
_SIDES = {"left": 0.0, "middle": 0.5, "right": 1.0}
# Votes of a word that names a place, that names the sky, and whose object is found in a place. Most
# other places have a sky too, so the word says less.
_NAMED, _SKY, _FOUND = 3, 2, 1


@dataclass
class _Draft:
    """A thing while the prompt is read.

    adjectives: its colour and size, by facet.
    side: its position 0..1; None if the prompt gives none.
    since: the part of the clip in which it appears.
    actions, colours: by part of the clip.
    """

    kind: str
    adjectives: dict[str, str]
    side: float | None
    since: int
    actions: dict[int, str] = field(default_factory=dict)
    colours: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """Contents of a prompt: things, votes for places, light, weather and camera."""

    drafts: tuple[_Draft, ...]
    places: Counter[str]
    setting: dict[str, str]

    @property
    def names_thing(self) -> bool:
        """Whether the prompt names a thing that the world draws."""
        return bool(self.drafts)

    @property
    def names_place(self) -> bool:
        """Whether the prompt names a place, or something found in one."""
        return bool(self.places)


def interpret(prompt: str) -> Scene:
    """Return the scene of a prompt, a pure function of it; letter case and spaces do not count."""
    text = " ".join(prompt.lower().split())
    reading = read(text)
    chance = Chance(text)
    # The world draws no empty scene: a prompt without a known thing gets one by its hash.
    drafts = reading.drafts or (_Draft(chance.choose("kind", {}, "thing"), {}, None, 0),)
    setting = reading.setting
    # Of places with equal votes, the one that was named first wins.
    votes = reading.places.most_common(1)
    place = votes[0][0] if votes else home(drafts[0].kind)
    return Scene(
        place=place,
        light=setting.get("light", "day"),
        weather="clear" if place in SHELTERED else setting.get("weather", "clear"),
        camera=setting.get("camera", "still"),
        shift=chance.number("shift"),
        # The first things of a prompt are what it is about.
        things=tuple(_thing(draft, i, chance) for i, draft in enumerate(drafts[:MOST])),
    )


def read(text: str) -> Reading:
    """Return the contents of a prompt in lower case."""
    found = _MOVES.search(text)
    camera = (found[1] or found[2]) if found else None
    if camera is None:
        # A shot is no move, but a close-up should show things large, and a zoom ends so.
        camera = "in" if _NEAR.search(text) else "out" if _FAR.search(text) else None
    reader = _Reader()
    # Remove moves of the camera: "pans left" says nothing about the place of a thing.
    for word in re.findall(r"[a-z]+|[,.;:]", _MOVES.sub(",", text)):
        reader.read(word)
    setting = reader.setting | ({"camera": camera} if camera else {})
    return Reading(tuple(reader.drafts), reader.places, setting)


class _Reader:
    """Reads word by word; remembers the last thing, and adjectives until their noun comes."""

    def __init__(self) -> None:
        self.drafts: list[_Draft] = []
        self.places: Counter[str] = Counter()
        self.setting: dict[str, str] = {}
        self._adjectives: dict[str, str] = {}
        self._side: float | None = None
        self._last: _Draft | None = None
        self._part = 0
        self._awaits_noun = True
        self._voted: set[str] = set()

    def read(self, word: str) -> None:
        """Read the next word or punctuation mark."""
        # A prompt of more events than parts has the rest in the last part.
        if word in THEN:
            self._part = min(self._part + 1, len(EVENTS_S) - 1)
        elif not word.isalpha():  # punctuation ends a clause
            self._adjectives, self._side, self._awaits_noun = {}, None, False
        # Articles, prepositions and the like, after which a noun is to come.
        elif word in BEFORE_NOUNS:
            self._awaits_noun = True
        elif word in _SIDES:
            # Before the thing ("on the left a dog") and after it ("a dog on the left").
            self._side = _SIDES[word]
            if self._last and self._last.side is None:
                self._last.side = self._side
        else:
            self._take(word, meanings(word))

    def _take(self, word: str, known: dict[str, str]) -> None:
        """Take in a word with its values by facet."""
        # After an article or preposition, a word that may be both is a noun: "the fall".
        is_verb = "action" in known and not self._awaits_noun
        if word not in self._voted:  # repeating a word does not make its place more likely
            self._voted.add(word)
            if "place" in known and not is_verb:
                self.places[known["place"]] += _SKY if known["place"] == "sky" else _NAMED
            elif "found" in known:
                self.places[known["found"]] += _FOUND
        for facet in ("light", "weather"):
            if facet in known:
                self.setting.setdefault(facet, known[facet])
        # Some words are a figure and a place, as "market": the place is what they say in a prompt.
        if "kind" in known and not is_verb and not known.keys() & {"colour", "place"}:
            # The second "dog" of a prompt is the first one again, not another dog.
            kind = known["kind"]
            same = [draft for draft in self.drafts if draft.kind == kind]
            if not same:
                self.drafts.append(_Draft(kind, dict(self._adjectives), self._side, self._part))
            self._last = same[0] if same else self.drafts[-1]
            self._adjectives, self._awaits_noun = {}, False
        elif "colour" in known or "size" in known:
            self._adjective(known)
        # A verb belongs to the thing before it; the first one of a part counts.
        elif "action" in known and self._last:
            self._last.actions.setdefault(self._part, known["action"])

    def _adjective(self, known: dict[str, str]) -> None:
        """Keep a colour or size for the next noun, or change the colour of the last thing."""
        self._adjectives |= {facet: known[facet] for facet in ("colour", "size") if facet in known}
        # "then it turns red": a colour without a noun to come changes a thing of an earlier part.
        is_old = self._last is not None and self._last.since < self._part
        if is_old and self._last and "colour" in known and not self._awaits_noun:
            self._last.colours.setdefault(self._part, known["colour"])


def _thing(draft: _Draft, index: int, chance: Chance) -> Thing:
    """Complete a draft; the hash decides what the prompt left open."""
    name = f"{draft.kind} {index}"
    # Slots in an order of the prompt's own, so that things stand apart.
    slots = sorted(range(MOST), key=lambda i: chance.number(f"slot {i}"))
    # As wide as `draw_thing` draws, so that prompts look like the training clips.
    wander = chance.number(f"x {name}") - 0.5
    x = (slots[index] / (MOST - 1) if draft.side is None else draft.side) + 0.2 * wander
    x = min(1.0, max(0.0, x))
    colour = chance.choose("colour", draft.adjectives, name)
    action = chance.choose("living" if draft.kind in LIVING else "lifeless", {}, name)
    acts: list[Act] = []
    here = x
    # Action, colour and position last until the prompt changes them.
    for part in range(len(EVENTS_S)):
        action = draft.actions.get(part, action)
        colour = draft.colours.get(part, colour)
        goal = here
        if action in ("walk", "run"):
            # To the other side of the stage, so that a walk is long enough to be seen.
            goal = 0.4 * chance.number(f"to {name} {part}") + (0.6 if here < 0.5 else 0.0)
        acts.append(Act(action if part >= draft.since else "away", colour, goal))
        here = goal
    return Thing(
        kind=draft.kind,
        size=chance.choose("size", draft.adjectives, name),
        x=x,
        y=chance.number(f"y {name}"),
        phase=chance.number(f"phase {name}"),
        acts=(acts[0], acts[1], acts[2]),
    )


@dataclass(frozen=True)
class Chance:
    """Numbers derived from a text: hashes of the text and of the purpose of the number.

    Hashes rather than random draws: a prompt is the same scene on every machine, two prompts
    without known words are two scenes, and one more number does not change the others.
    """

    text: str

    def number(self, purpose: str) -> float:
        """Return a number of 0..1 in steps of 2^-16, which every machine represents exactly."""
        # Not Python's `hash`, which differs from process to process.
        digest = hashlib.sha256(f"{self.text}|{purpose}".encode()).digest()
        return int.from_bytes(digest[:2], "big") / 65536

    def choose(self, facet: str, given: Mapping[str, str], owner: str) -> str:
        """Return the given value of a facet, or else one that the text decides."""
        values = _ALL[facet]
        return given.get(facet) or values[int(self.number(f"{facet} {owner}") * len(values))]
