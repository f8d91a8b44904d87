"""Values that are not finite: where they are found, what becomes of the video, and what is said."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from harness.api import Exact, Packed
from harness.cache.numerics import are_finite
from harness.models.wan import Wan
from harness.results import all_runs
from harness.results.run import Run
from harness.results.run_state import RunState
from harness.runs.generate import generate
from harness.sampling.decoding import pixels
from harness.system.errors import NotFinite, cause_of
from tests.support.runs import run

BAD = [math.nan, math.inf, -math.inf]
NUM_FRAMES = 9  # three chunks


@dataclass(frozen=True)
class Breaks(Exact):
    """Makes one value of each frame a bad one, before it is stored or when it is read."""

    value: str = "nan"  # a word: settings that are numbers must be finite
    when: str = "decode"

    def encode(self, x_BHFTD: Tensor) -> Packed:
        if self.when == "encode":
            x_BHFTD = x_BHFTD.clone()
            x_BHFTD[..., -1, -1] = float(self.value)
        return super().encode(x_BHFTD)

    def stage(self, packed: Packed, out: Tensor) -> None:
        super().stage(packed, out)
        if self.when == "decode":
            out[..., 0, 0] = float(self.value)


def broken(tmp_path: Path, **changes: Any) -> Run:
    """A run of two prompts whose method is BF16 with some parts changed."""
    this = run(tmp_path, "model.latent_size=[8,8]", "method=bf16")
    suite = replace(this.suite, prompts=this.suite.prompts[:2], num_frames=NUM_FRAMES)
    this = replace(this, suite=suite, method={**this.method, **changes})
    this.make_folders()
    return this


def failures(this: Run) -> list[tuple[str, str]]:
    generate(this, RunState.read(this.folder).missing(this), lambda key: None)
    rows = all_runs.load_run(this.folder)
    assert rows["psnr_db"].isna().all() if "psnr_db" in rows else True
    return list(zip(rows["failure"], rows["failure_reason"], strict=True))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("when", ["encode", "decode"])
@pytest.mark.parametrize("side", ["key", "value"])
def test_a_quantizer_that_gives_what_is_not_finite(
    tmp_path: Path, value: float, when: str, side: str
) -> None:
    """Whether it lies in the codes or is made on reading, the first chunk that reads it fails."""
    part = {"_target_": "tests.sampling.test_numerics.Breaks", "value": str(value), "when": when}
    for cause, reason in failures(broken(tmp_path, **{side: part})):
        assert cause == "numerics"
        assert "chunk 1 (frames 3 to 5)" in reason
        assert f"the method decodes the {side}s of layer 0, frame 0" in reason


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    ("broken_pass", "said"),
    [
        (0, "chunk 0 (frames 0 to 2) are not finite from denoising pass 1 of 4 on"),
        (2, "chunk 0 (frames 0 to 2) are not finite from denoising pass 3 of 4 on"),
        (6, "chunk 1 (frames 3 to 5) are not finite from denoising pass 2 of 4 on"),
    ],
)
def test_a_network_that_breaks_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, broken_pass: int, said: str
) -> None:
    finish, calls = Wan.finish, {"passes": 0}

    def poisoned(self: Wan, *args: Any) -> Tensor:
        flow = finish(self, *args)
        if calls["passes"] == broken_pass:
            flow[0, 0, 0, 0, 0] = value
        calls["passes"] += 1
        return flow

    monkeypatch.setattr("harness.runs.generate.Generator.warm_up", lambda self: None)
    monkeypatch.setattr(Wan, "finish", poisoned)
    this = broken(tmp_path)
    (cause, reason), (after, _) = failures(this)
    assert cause == "numerics" and pd.isna(after), "the next video is made"
    assert said in reason
    if broken_pass >= 5:
        assert "all that the method decodes of the history is finite" in reason


@pytest.mark.parametrize("integration", ["packed", "published"])
@pytest.mark.parametrize(("projection", "layer"), [("k", 0), ("v", 2)])
def test_keys_and_values_of_a_commit_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, projection: str, layer: int, integration: str
) -> None:
    """The commit pass alone breaks, which no latents of the last chunk would ever show."""
    from harness.cache.published.session import PublishedSession
    from harness.cache.session import Session

    kind = {"packed": Session, "published": PublishedSession}[integration]
    attend = kind.attend

    def poisoned(self: Any, at: int, q: Tensor, k: Tensor, v: Tensor, plan: Any) -> Tensor:
        if plan.stores == "history" and at == layer and plan.frames.start == NUM_FRAMES - 3:
            (k if projection == "k" else v)[..., 0, 0] = math.nan
        return attend(self, at, q, k, v, plan)

    monkeypatch.setattr(kind, "attend", poisoned)
    this = broken(tmp_path)
    if integration == "published":
        from tests.support.geometry import configured

        this = replace(this, integration=configured("integration=published")["integration"])
        this.make_folders()
    for cause, reason in failures(this):
        assert cause == "numerics"
        assert f"keys or values of layer {layer} are not finite in the commit pass of " in reason
        assert "chunk 2 (frames 6 to 8)" in reason


@pytest.mark.parametrize("value", BAD)
def test_an_encoded_prompt_and_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    from harness.small_model.scenes.text import SceneText

    encode = SceneText.encode

    def poisoned(self: SceneText, prompts: list[str]) -> Tensor:
        rows = encode(self, prompts)
        rows[0, 0, 0] = value
        return rows

    monkeypatch.setattr(SceneText, "encode", poisoned)
    for cause, reason in failures(broken(tmp_path)):
        assert (cause, "the encoded prompt is not finite" in reason) == ("numerics", True)
    frames = torch.zeros(1, 3, 4, 4)
    frames[0, 1, 2, 3] = value
    with pytest.raises(NotFinite, match="pixels that are not finite"):
        pixels(frames)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_values_are_finite_and_one_bad_one_is_not(dtype: torch.dtype) -> None:
    """Nothing is summed, which would overflow."""
    x = torch.full((2, 3, 50), torch.finfo(dtype).max, dtype=dtype)
    assert are_finite(x, -x, torch.zeros(1))
    for value in BAD:
        x[1, 2, 49] = value
        assert not are_finite(torch.zeros(1), x)


def test_the_cause_is_found_behind_other_errors() -> None:
    try:
        try:
            raise NotFinite("latents")
        except NotFinite as error:
            raise RuntimeError("of a library") from error
    except RuntimeError as error:
        assert cause_of(error) == "numerics"
    assert cause_of(ArithmeticError("another")) == "error"
