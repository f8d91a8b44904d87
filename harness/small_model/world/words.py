"""Lists the values of every facet of a scene, and the words that mean them."""

from __future__ import annotations

from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "star", "diamond", "ring", "cross"]
Colour = Literal[
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown"
]
Size = Literal["small", "medium", "large"]
Texture = Literal["plain", "striped", "checked"]
Motion = Literal["still", "bounce", "swing", "orbit", "roll", "grow", "shrink", "pulse", "hide"]
Pace = Literal["slow", "fast"]
Place = Literal["field", "sea", "city", "room", "desert", "night", "forest", "snow"]
Light = Literal["steady", "dusk", "dawn"]
Camera = Literal["still", "left", "right", "in", "out"]

# Facet -> value -> words. Captions use the words before the bar only; prompts are read with all.
# Shapes have words for many things that the world cannot draw, such as people, so that most prompts
# of the official suites name a thing.
SAID: dict[str, dict[str, str]] = {
    "shape": {
        "circle": "circle ball disc | disk sphere wheel coin orb cd planet apple button bubble "
        "head man boy guy chef baker driver child baby monster balloon clock plate egg",
        "square": "square box cube | block book window tv crate house robot computer car truck "
        "bus train suitcase piano door chair card phone painting machine player",
        "triangle": "triangle pyramid wedge | cone tent mountain sail boat ship tree cliff slice "
        "rocket roof volcano horse dog wolf fox mammoth elephant",
        "star": "star starfish | flower snowflake firework fire flame candle sun leaf hand crab "
        "splash spark explosion dancer",
        "diamond": "diamond rhombus gem | crystal kite jewel fish bird butterfly woman girl lady "
        "queen dress cat kitten owl parrot",
        "ring": "ring hoop donut | halo tyre tire wreath loop wave snake crown bracelet slinky "
        "bicycle whale dolphin octopus",
        "cross": "cross plus windmill | propeller airplane plane drone fan helicopter satellite "
        "person people athlete skier surfer swimmer runner bee dragonfly astronaut",
    },
    "colour": {
        "red": "red crimson | scarlet ruby cherry reddish strawberry",
        "orange": "orange amber | tangerine copper rusty",
        "yellow": "yellow golden | gold lemon blonde yellowish sunny",
        "green": "green emerald | lime mossy olive greenish",
        "blue": "blue azure | navy cobalt sapphire turquoise cyan bluish",
        "purple": "purple violet | lilac lavender indigo",
        "pink": "pink rosy | magenta fuchsia",
        "white": "white ivory | pale fluffy silver",
        "black": "black ebony | inky sleek",
        "brown": "brown chestnut | tan wooden furry bronze",
    },
    "size": {
        "small": "small little tiny | mini short young",
        "medium": "medium | ordinary average",
        "large": "large big huge | giant tall massive enormous",
    },
    "texture": {
        "plain": "plain smooth | solid simple",
        "striped": "striped banded | lined stripes stripy wavy",
        "checked": "checked checkered | plaid tiled patterned spotted",
    },
    "motion": {
        "still": "rests stands waits | sits lies stays sleeps gazes kneels observes poses",
        "bounce": "bounces jumps hops | leaps skips dribbles",
        "swing": "swings sways | rocks oscillates dances shakes stirs flaps",
        "orbit": "orbits circles revolves | spins rotates twirls turns whirls swirls",
        "roll": "rolls travels glides | drives walks strolls runs crosses drifts flies moves "
        "passes swims rides sails races marches slides crawls treads collides hikes",
        "grow": "grows swells expands | inflates blooms opens rises climbs builds",
        "shrink": "shrinks dwindles | melts deflates closes fades sinks falls burns eats",
        "pulse": "pulses throbs | beats blinks flickers breathes glows sings laughs plays",
        "hide": "hides sneaks | peeks ducks searches explores",
    },
    "pace": {
        "slow": "slowly gently | calmly softly gracefully lazily",
        "fast": "quickly rapidly | fast swiftly briskly suddenly",
    },
    "place": {
        "field": "field meadow | grass park garden hill farm lawn countryside",
        "sea": "sea ocean | beach lake water shore river pool coast underwater",
        "city": "city street | town road tokyo urban market highway bridge",
        "room": "room kitchen | indoors studio wall table floor office stage shop",
        "desert": "desert dunes | sand salt canyon mars sahara",
        "night": "night space | galaxy starry moon cosmos dark",
        "forest": "forest woods | trees jungle rainforest woodland",
        "snow": "snow mountains | ice winter arctic snowy glacier peaks",
    },
    "light": {
        "steady": "daylight noon | afternoon midday",
        "dusk": "dusk sunset | evening twilight",
        "dawn": "dawn sunrise | morning daybreak",
    },
}

# Words that begin the next part of a clip, and verbs for the changes of a thing in it.
THEN = {"then", "next", "finally", "afterwards", "later", "eventually"}
TURNS = {"turns", "becomes", "changes"}
LEAVES = {"leaves", "vanishes", "departs", "exits", "disappears", "away"}
# Words at which a clause ends: adjectives before them do not belong to the noun after them.
CLAUSE = {"while", "and", "as", "with", "before", "after", "until", "but"} | THEN
# Words that say nothing about a scene, so they cannot stand for the thing of a prompt.
_COMMON = """
a an the of in on at to from by for its his her their it he she they is are was be that
this which who into over under near through up down out off against above below around
across between one two three several some each all very more most scene shot view video
camera style background him them there where when so
"""
COMMON = frozenset(_COMMON.split())


def spoken(facet: str, value: str) -> list[str]:
    """Return the words that captions use for a value."""
    return SAID[facet][value].partition("|")[0].split()


# Word -> facet and value. No word is listed twice (a test holds this).
_MEANS = {
    word: (facet, value)
    for facet, values in SAID.items()
    for value, words in values.items()
    for word in words.replace("|", " ").split()
}
# Ending of a word as written, and the ending that replaces it before the word is looked up. Verbs
# are listed in the third person ("rolls"), so "rolling" and "roll" become "rolls".
_ENDINGS = (
    ("ies", "y"),
    ("es", ""),
    ("s", ""),
    ("ing", "s"),
    ("ing", "es"),
    ("ed", "s"),
    ("", "s"),
)


def meaning(word: str) -> tuple[str, str] | None:
    """Return facet and value of a lower-case word in any inflection; None if it means nothing."""
    if word in _MEANS:
        return _MEANS[word]
    for ending, instead in _ENDINGS:
        # A stem of fewer than three letters would match by accident.
        if word.endswith(ending) and len(word) > len(ending) + 2:
            base = word[: len(word) - len(ending)] + instead
            if base in _MEANS:
                return _MEANS[base]
    return None


assert set(SAID["shape"]) == set(get_args(Shape))
