"""Videos from Python: the README's lines, and the same frames as a run makes."""

from __future__ import annotations

import re

import numpy as np
import pytest

from harness.runs.library import load, open_session, sample_video
from tests.conftest import ROOT

PROMPT = "a red ball rolls to the right over a sunny field"


def test_a_seed_is_one_video_and_a_method_changes_its_bytes_and_pixels() -> None:
    model, bf16 = load("model=small", "method=bf16")
    _, int4 = load("method=rtn_int4")
    exact, again, other = (
        sample_video(model, method, PROMPT, num_frames=6, seed=seed)
        for method, seed in ((bf16, 1), (bf16, 1), (bf16, 2))
    )
    coarse = sample_video(model, int4, PROMPT, num_frames=6, seed=1)
    assert exact.frames.shape == (21, 128, 128, 3) and exact.frames.dtype == np.uint8
    assert np.array_equal(exact.frames, again.frames)
    assert not np.array_equal(exact.frames, other.frames)
    assert not np.array_equal(exact.frames, coarse.frames)
    assert coarse.session.stored_bytes < exact.session.stored_bytes / 3


def test_what_does_not_fit_is_refused_before_anything_is_built() -> None:
    model, method = load("model=small", "method=rtn_int4", "method.key.group=48")
    with pytest.raises(ValueError, match="group=48 does not divide"):
        open_session(model, method, num_frames=6)


def test_the_lines_of_the_readme_run(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = [each for each in blocks if "harness.runs.library" in each]
    exec(compile(block, "README.md", "exec"), {})
    assert "(45, 128, 128, 3)" in capsys.readouterr().out
