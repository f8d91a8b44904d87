from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness.prompts.story_events import split
from harness.prompts.suite import BUNDLED, Prompt, SuiteConfig, resolve
from harness.results.run import Run
from tests.conftest import SHARED
from tests.support.geometry import configured
from tests.support.runs import run

OFFICIAL = SHARED / "prompts" / "storyeval.txt"
GOLDEN_COUNTS = {2: 137, 3: 260, 4: 26}
GOLDEN_SHA256 = "0cfcd5b3f0b50f5b8a124971511ee86c83b4920130d4f89fb3750e2956838474"


@pytest.mark.parametrize(
    ("line", "events"),
    [
        (  # the subject is carried on
            "A newt swims in a bowl, shakes off water, and then naps in moss.",
            ["A newt swims in a bowl", "A newt shakes off water", "A newt naps in moss"],
        ),
        (  # no comma, an adverb, "finally"
            "A clerk stamps a form and then slowly leans back, and finally sighs",
            ["A clerk stamps a form", "A clerk slowly leans back", "A clerk sighs"],
        ),
        (  # bare nouns as subjects, a plural that carries on
            "A match strikes, smoke rises, waves splash, and then drift off to the shore.",
            ["A match strikes", "Smoke rises", "Waves splash", "Waves drift off to the shore"],
        ),
        (  # words in -s that are verbs all the same
            "A guide leaves home, waves to us, waters the lawn, and boxes apples.",
            [
                "A guide leaves home",
                "A guide waves to us",
                "A guide waters the lawn",
                "A guide boxes apples",
            ],
        ),
        (  # a noun in -ss or behind "of" is no verb
            "A bus parks, and then a sack of beans falls out, rolls on, and bursts.",
            [
                "A bus parks",
                "A sack of beans falls out",
                "A sack of beans rolls on",
                "A sack of beans bursts",
            ],
        ),
        (  # participles carry the passive on, with its auxiliary; "it" is no person
            "Some plates are lifted, a cook nods, and then put away, and finally it rains outside.",
            [
                "Some plates are lifted",
                "A cook nods",
                "Some plates are put away",
                "It rains outside",
            ],
        ),
        (
            "A kite is folded, packed into a box, and then it flies off.",
            ["A kite is folded", "A kite is packed into a box", "A kite flies off"],
        ),
        (  # what a person handles
            "A woman lifts her lantern, sets it down, and then it glows.",
            ["A woman lifts her lantern", "A woman sets it down", "Her lantern glows"],
        ),
        (  # "they" are the last plural
            "The leaves of a tree turn red, the wind howls, and then they drop.",
            ["The leaves of a tree turn red", "The wind howls", "The leaves drop"],
        ),
        (  # an -ing form stays with its clause, an opening with the first
            "In the dark, a door opens, revealing a hall, and then closes.",
            ["In the dark, a door opens, revealing a hall", "A door closes"],
        ),
        (  # a slip of grammar is left as it is, and does not make a subject of a verb
            "A cook gets ready, hit a gong, and then walk away",
            ["A cook gets ready", "A cook hit a gong", "A cook walk away"],
        ),
        ("A single thing happens.", ["A single thing happens"]),
        ("", []),
    ],
)
def test_a_line_is_split_into_its_events(line: str, events: list[str]) -> None:
    assert list(split(line)) == events


def test_every_line_of_ours_has_two_to_four_events() -> None:
    lines = (BUNDLED / "storyeval.txt").read_text().splitlines()
    assert {len(split(line)) for line in lines} == {3}
    assert split(lines[16])[-1] == "His whistle rolls away"


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="the official list is not here")
def test_the_official_list_is_split_as_it_was_read_through() -> None:
    stories = [split(line) for line in OFFICIAL.read_text().splitlines()]
    assert Counter(map(len, stories)) == GOLDEN_COUNTS
    events = "\n".join(event for story in stories for event in story)
    assert hashlib.sha256(events.encode()).hexdigest() == GOLDEN_SHA256


def test_the_suite_of_stories_carries_events_and_others_do_not() -> None:
    settings = {"source": "bundled", "prompts": [3, 1]}
    story = SuiteConfig(**{**configured("suite=storyeval")["suite"], **settings})
    prompts = resolve("storyeval", story, None, 3, 16).prompts
    assert [p.events for p in prompts] == [split(p.text) for p in prompts]
    assert prompts[1].events[0] == "A locksmith kneels at a jammed door"
    plain = SuiteConfig(**{**configured("suite=moviegen")["suite"], **settings})
    assert {p.events for p in resolve("moviegen", plain, None, 3, 16).prompts} == {()}


def test_events_are_a_tuple_again_after_json() -> None:
    prompt = Prompt(4, "A newt swims, and then naps.", split("A newt swims, and then naps."))
    said = json.loads(json.dumps({"index": 4, "text": prompt.text, "events": list(prompt.events)}))
    assert Prompt(**said) == prompt
    assert hash(Prompt(**said)) == hash(prompt)
    assert Prompt(4, "as requests were written before there were events").events == ()


def test_a_run_with_events_is_the_run_without_and_comes_back_from_its_folder(
    tmp_path: Path,
) -> None:
    plain = run(tmp_path)
    told = tuple(
        replace(each, events=("A newt swims", "A newt naps")) for each in plain.suite.prompts
    )
    story = replace(plain, suite=replace(plain.suite, prompts=told))
    assert story.run_id == plain.run_id
    with story.prepared():
        pass
    assert Run.from_folder(story.folder).suite == story.suite
