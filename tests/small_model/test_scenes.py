"""The picture-book world: what is drawn, what is read from prompts, what the network is told."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from harness.prompts.suite import BUNDLED
from harness.small_model.scenes import rows as table
from harness.small_model.scenes.__main__ import main
from harness.small_model.scenes.caption import describe
from harness.small_model.scenes.clip import clip
from harness.small_model.scenes.interpret import interpret, read
from harness.small_model.scenes.looks import COUNT, looks
from harness.small_model.scenes.motion import path
from harness.small_model.scenes.render import Drawing, mark_paint
from harness.small_model.scenes.rows import rows
from harness.small_model.scenes.scene import (
    ACTIONS,
    COLOURS,
    EVENTS_S,
    KINDS,
    LENGTH_S,
    PLACES,
    SIZES,
    Act,
    Scene,
    Thing,
)
from harness.small_model.scenes.wordnet import Synsets, select

PROMPTS = Path("../shared/prompts")
TIMES = np.arange(42) / 4
# The SHA-256 that the captions and frames of the first eight clips must have.
CLIPS = "9bb3b472c45ac4ab770553a03c144725760698a510d55e4abcdc40f171ee9639"


def thing(kind: str = "dog", *actions: str, colour: str = "red") -> Thing:
    acts = [Act(action, colour, 0.9) for action in actions or ("rest", "rest", "rest")]
    return Thing(kind, "large", 0.3, 0.5, 0.2, (acts[0], acts[1], acts[2]))


def scene(*things: Thing, place: str = "field") -> Scene:
    return Scene(place, "day", "clear", "still", 0.3, things)


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_drawn_where_its_box_is(kind: str) -> None:
    one = Drawing(scene(thing(kind)), TIMES[:1])
    bare = Drawing(scene(), TIMES[:1])
    changed = (one.pixels((0.5,)) != bare.pixels(())).any(-1)[0]
    left, top, right, bottom = one.boxes()[0, 0]
    assert changed.sum() > 300
    rows_, columns = np.nonzero(changed)
    assert left - 1 <= columns.min() and columns.max() <= right + 1
    assert top - 1 <= rows_.min() and rows_.max() <= bottom + 1


@pytest.mark.parametrize("kind", KINDS)
def test_figures_bear_their_mark(kind: str) -> None:
    frames = [Drawing(scene(thing(kind)), TIMES[:1]).pixels((hue,)) for hue in (0.1, 0.6)]
    differs = (frames[0] != frames[1]).any(-1)
    assert differs.sum() > 20
    assert mark_paint(0.1) != mark_paint(0.6)


def test_figures_differ_from_each_other() -> None:
    pictures = [Drawing(scene(thing(kind)), TIMES[:1]).pixels((0.5,)) for kind in KINDS]
    assert len({picture.tobytes() for picture in pictures}) == len(KINDS)


@pytest.mark.parametrize("place", PLACES)
def test_places_fill_the_frame_however_they_are_shifted(place: str) -> None:
    for shift, camera in ((0.0, "left"), (0.999, "right")):
        empty = replace(scene(place=place), shift=shift, camera=camera)
        pixels = Drawing(empty, np.array([0.0, LENGTH_S])).pixels(())
        unpainted = (pixels == 0).all(-1)
        assert unpainted.mean() < 0.01


@pytest.mark.parametrize("action", [action for action in ACTIONS if action != "away"])
def test_acts_are_seen_and_join_without_a_jump(action: str) -> None:
    fine = np.linspace(0, LENGTH_S - 1e-6, 2000)
    for after in ACTIONS:
        way = path(thing("dog", "walk", action, after), fine)
        shown = way.shown[:-1] & way.shown[1:]
        for values in (way.x, way.y, way.height):
            assert np.abs(np.diff(values))[shown].max() < 4
    still = path(thing("dog"), TIMES)
    moved = path(thing("dog", action, action, action), TIMES)
    if action != "rest":
        assert any(
            np.abs(a - b).max() > 0.1
            for a, b in zip(
                list(vars(moved).values())[:9], list(vars(still).values())[:9], strict=True
            )
        )


def test_who_comes_back_looks_as_before() -> None:
    away = thing("cat", "rest", "away", "rest")
    drawing = Drawing(scene(away), np.array([3.0, 6.0, 10.0]))
    frames = drawing.pixels((0.7,))
    bare = Drawing(scene(), np.array([3.0, 6.0, 10.0])).pixels(())
    assert (frames[1] == bare[1]).all()
    paint = np.array(mark_paint(0.7))
    assert all((frames[f] == paint).all(-1).sum() > 20 for f in (0, 2))
    for seed in range(1000, 1200):
        for one in clip(seed).scene.things:
            for before, now in pairwise(one.acts):
                assert before.colour == now.colour or "away" not in (before.action, now.action)


def test_a_clip_is_a_function_of_its_seed() -> None:
    frames = range(0, 42, 20)
    assert (clip(7).keyframes(frames) == clip(7).keyframes(frames)).all()
    assert (clip(7).keyframes(frames) != clip(8).keyframes(frames)).any()


def test_clips_are_the_same_bit_for_bit_on_every_machine() -> None:
    digest = hashlib.sha256()
    for seed in range(8):
        digest.update(describe(clip(seed).scene).encode())
        digest.update(clip(seed).keyframes(range(0, 42, 6)).tobytes())
    assert digest.hexdigest() == CLIPS


@pytest.mark.parametrize("seed", range(0, 60))
def test_captions_are_read_as_they_were_meant(seed: int) -> None:
    meant = clip(seed).scene
    if len({one.kind for one in meant.things}) < len(meant.things):
        pytest.skip("two things of one name")
    got = interpret(describe(meant))
    for facet in ("place", "light", "weather", "camera"):
        assert getattr(got, facet) == getattr(meant, facet), describe(meant)
    by_kind = {one.kind: one for one in got.things}
    assert set(by_kind) == {one.kind for one in meant.things}
    for one in meant.things:
        other = by_kind[one.kind]
        assert other.size == one.size
        assert [act.action for act in other.acts] == [act.action for act in one.acts]
        seen = [p for p in range(len(EVENTS_S)) if one.acts[p].action != "away"]
        assert [other.acts[p].colour for p in seen] == [one.acts[p].colour for p in seen]


@pytest.mark.parametrize(
    ("prompt", "place", "kinds"),
    [
        ("An elderly clockmaker repairs a watch in an attic workshop", "study", ["man", "clock"]),
        ("Two puppies chase a butterfly through a meadow", "field", ["dog", "butterfly"]),
        ("A violinist on the stage of a theatre", "hall", ["man"]),
        ("A tugboat leaves the harbour of the ocean", "sea", ["boat"]),
        ("A poodle under the sofa", "room", ["dog"]),
    ],
)
def test_hypernyms_are_known(prompt: str, place: str, kinds: list[str]) -> None:
    got = interpret(prompt)
    assert got.place == place
    assert [one.kind for one in got.things][: len(kinds)] == kinds


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_scene_and_rows(text: str) -> None:
    numbers = rows(interpret(text))
    assert numbers.isfinite().all() and numbers[0].any() and numbers[1].any()


def test_letter_case_and_spaces_do_not_count() -> None:
    assert interpret("A  red dog RUNS.\n") == interpret("a red dog runs.")


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_prompts_of_the_suites_give_distinct_scenes(suite: str) -> None:
    prompts = (BUNDLED / f"{suite}.txt").read_text().splitlines()
    assert len({interpret(prompt) for prompt in prompts}) == len(prompts)


def test_what_a_prompt_leaves_open_is_its_own() -> None:
    assert interpret("Xyzzy   plugh") == interpret("xyzzy plugh")
    others = {interpret(f"xyzzy {word}").things[0] for word in ("a", "b", "c", "d", "e")}
    assert len(others) == 5


def test_who_is_told_to_do_nothing_stays_calm() -> None:
    for number in range(40):
        got = interpret(f"a man beside a cup of number {number}")
        man, cup = got.things
        assert {act.action for act in man.acts} <= {"rest", "walk", "sway", "nod"}
        assert {act.action for act in cup.acts} <= {"rest", "sway"}


def test_prompts_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "a red car in a street", "--out", str(tmp_path / "one.png")]) == 0
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width > 7 * 128
    assert main(["captions", "-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [describe(clip(i).scene) for i in (0, 1)]


def test_the_suite_is_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["captions"]) == 0
    assert capsys.readouterr().out == (BUNDLED / "scenes.txt").read_text()


def test_events_come_in_order() -> None:
    got = interpret("A red dog jumps, then the dog becomes blue and rests, finally the dog leaves.")
    acts = got.things[0].acts
    assert [act.action for act in acts] == ["jump", "rest", "away"]
    assert [act.colour for act in acts] == ["red", "blue", "blue"]
    late = interpret("A dog is here, then the dog jumps, finally a cat sways.")
    dog, cat = late.things
    assert dog.acts[0].action != "jump" == dog.acts[1].action == dog.acts[2].action
    assert [act.action for act in cat.acts] == ["away", "away", "sway"]


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_most_lines_name_a_place_and_a_thing(suite: str) -> None:
    path = PROMPTS / f"{suite}.txt"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    readings = [read(" ".join(line.lower().split())) for line in path.read_text().splitlines()]
    both = [reading.names_thing and reading.names_place for reading in readings]
    assert np.mean(both) >= 0.9


def test_rows_tell_scenes_apart_and_leave_absent_things_zero() -> None:
    one, two = thing("dog"), thing("cat")
    alone, pair = rows(scene(one)), rows(scene(one, two))
    assert alone.shape == (table.LENGTH, table.WIDTH)
    assert not alone[4:].any() and pair[4:7].any() and not pair[7:].any()
    assert torch.equal(alone[:4], pair[:4])
    for other in (
        replace(one, size=SIZES[0]),
        thing("dog", colour="blue"),
        thing("dog", "walk", "rest", "rest"),
    ):
        assert not torch.equal(rows(scene(other)), alone)


def test_figures_that_look_alike_have_similar_looks() -> None:
    numbers = looks()
    apart = torch.cdist(numbers, numbers)
    assert numbers.shape == (len(KINDS), COUNT)
    assert (apart + torch.eye(len(KINDS)) > 0.5).all()  # no two kinds are the same
    man, woman, train = (KINDS.index(kind) for kind in ("man", "woman", "train"))
    assert apart[man, woman] < 0.5 * apart[man, train]
    row = rows(scene(thing("dog")))[1]
    assert torch.equal(row[-COUNT:], numbers[KINDS.index("dog")])


def test_rows_without_layout_tell_what_a_prompt_tells() -> None:
    one = thing("dog", "walk", "away", "jump")
    moved = replace(one, x=0.8, y=0.1, phase=0.9)
    shifted = replace(scene(moved), shift=0.7)
    assert torch.equal(rows(scene(one), layout=False), rows(shifted, layout=False))
    assert not torch.equal(rows(scene(one)), rows(shifted))
    for other in (thing("cat", "walk", "away", "jump"), thing("dog", "run", "away", "jump")):
        assert not torch.equal(rows(scene(one), layout=False), rows(scene(other), layout=False))


def test_names_may_be_appended() -> None:
    names = {"place": PLACES, "kind": KINDS, "colour": COLOURS, "action": ACTIONS}
    for facet, listed in names.items():
        assert len(listed) <= table.ROOM[facet]
        assert len(set(listed)) == len(listed)


def test_the_table_of_words_takes_the_nearest_hypernym() -> None:
    synsets = Synsets(
        part="noun",
        of_lemma={"animal": ["1"], "hound": ["2"], "pug": ["3"], "white": ["3"], "rex": ["4"]},
        above={"2": ["1"], "3": ["2"], "4": []},
        named={"4": ["2"]},
        counts={
            **{word: {"noun": [1]} for word in ("animal", "hound", "pug", "rex")},
            "white": {"noun": [1], "other": [9]},
        },
    )
    anchors = {"dog": "hound.1", "beast": "animal.1"}
    assert select(synsets, anchors) == {"beast": ["animal"], "dog": ["hound", "pug"]}
    assert select(synsets, anchors, names=True)["dog"] == ["hound", "pug", "rex"]
    polite = replace(synsets, insults=frozenset("3"))
    assert select(polite, anchors) == {"beast": ["animal"], "dog": ["hound"]}
    with pytest.raises(ValueError, match=r"hound\.2"):
        select(synsets, {"dog": "hound.2"})
