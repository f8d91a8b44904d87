"""One composer serves many command lines."""

from __future__ import annotations

import pytest

from harness.config.compose import composing


@pytest.mark.parametrize(
    "words",
    [
        ["run.threads=2"],
        ["~run.dry"],
        ["+judge.url=x"],
        ["method=rtn_int4", "method.key.bits=2"],
        ["model.window=9", "suite.frames=12"],
        ["metrics=[psnr]"],
        ["experiment=smoke", "suite.num_prompts=7"],
        ["experiment=noise_floor"],
    ],
    ids=" ".join,
)
def test_a_command_line_leaves_nothing_to_the_next(words: list[str]) -> None:
    """The composer reads each file once, and Hydra merges settings into what it has read."""
    asked = [["method=rtn_int4"], ["experiment=smoke"]]
    with composing() as composer:
        before = [composer.resolved(each) for each in asked]
        changed = composer.resolved(words)
        assert changed not in before
        assert [composer.resolved(each) for each in asked] == before
        assert composer.resolved(words) == changed
