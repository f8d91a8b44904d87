"""Maps words to their meanings in the world: `words.yaml`, by hand, then WordNet (`words.txt`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from harness.small_model.scenes.scene import KINDS

_BY_HAND = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text())
# Facet -> value -> words.
SAID: dict[str, dict[str, list[str]]] = {
    facet: {value: words.split() for value, words in values.items()}
    for facet, values in _BY_HAND.items()
    if facet not in ("found", "home", "words")
}
# Words about the video itself ("shot", "style"), of the next part, and before nouns.
ABOUT, THEN, BEFORE_NOUNS = (
    frozenset(_BY_HAND["words"][name].split()) for name in ("about", "then", "before_nouns")
)
# Kind of a figure -> the place of a prompt that names the figure and no place.
_HOMES: dict[str, str] = {
    kind: place for place, kinds in _BY_HAND["home"].items() for kind in kinds.split()
}
_TABLE = Path(__file__).with_name("words.txt")
# Ending of a word as written, and the ending that replaces it before the word is looked up.
_ENDINGS = (("ies", "y"), ("es", ""), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e"),
            ("ning", "n"), ("ping", "p"), ("ting", "t"))  # fmt: skip


def meanings(word: str) -> dict[str, str]:
    """Return the values of a lower-case word by facet; empty if it means nothing.

    Facets are those of `SAID`, and "found": the place in which one finds the word's object.
    """
    if word in ABOUT:
        return {}
    # All forms by hand go before WordNet's, so that a hand-written entry wins for every ending.
    for form in _forms(word):
        if known := _by_hand().get(form):
            return known
    for form in _forms(word):
        if known := _by_wordnet().get(form):
            return known
    return {}


def home(kind: str) -> str:
    """Return the place of a figure whose prompt names none."""
    # A room suits whatever has no home of its own.
    return _HOMES.get(kind, "room")


def spoken(facet: str, value: str) -> str:
    """Return the word that captions use for a value."""
    words = SAID[facet].get(value)
    # A kind without words by hand is called by its own name.
    return words[0] if words else value


def _forms(word: str) -> list[str]:
    """Return the word itself, then without its endings, then as a plural."""
    cut = [
        word[: len(word) - len(ending)] + instead
        for ending, instead in _ENDINGS
        if word.endswith(ending) and len(word) > len(ending) + 2  # shorter stems match by accident
    ]
    # Last with an s: verbs stand in the list by hand as captions say them, "walks".
    return [word, *cut, f"{word}s"]


@cache
def _by_hand() -> dict[str, dict[str, str]]:
    """Return the hand-written list: word -> facet -> value."""
    table: dict[str, dict[str, str]] = {}
    for facet, values in SAID.items():
        for value, words in values.items():
            for word in words:
                table.setdefault(word, {}).setdefault(facet, value)
    for kind in KINDS:  # a figure's own name always means it
        table.setdefault(kind, {}).setdefault("kind", kind)
    known = _by_wordnet()
    for value, text in _BY_HAND["found"].items():
        for word in text.split():
            entry = table.setdefault(word, {})
            entry.setdefault("found", value)
            # `meanings` stops at the first entry, so copy the word's other meanings: "books" are
            # found in a study, and are also a book.
            for form in _forms(word):
                for facet, other in (table.get(form, {}) | known.get(form, {})).items():
                    if form == word or facet in ("kind", "action"):
                        entry.setdefault(facet, other)
    return table


@cache
def _by_wordnet() -> dict[str, dict[str, str]]:
    """Return the list from WordNet: word -> facet -> value; the first line of a word wins."""
    table: dict[str, dict[str, str]] = {}
    for line in _TABLE.read_text().splitlines():
        if not line.startswith("#"):
            name, _, words = line.partition(": ")
            facet, value = name.split(" ")
            for word in words.split():
                table.setdefault(word, {}).setdefault(facet, value)
    return table
