"""Training of the teacher: noise levels, causal passes, kept keys, resuming, key statistics."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from harness.api import CacheSpec
from harness.cache.positions import Rope, rotate
from harness.config.compose import configured
from harness.models.wan import Wan, WanDims
from harness.small_model.codec import encode
from harness.small_model.diffusion.__main__ import main
from harness.small_model.diffusion.data import GRID, Windows, cell_weights
from harness.small_model.diffusion.keys import KEPT, KeyShape, key_statistics
from harness.small_model.diffusion.objective import DiffusionForcing
from harness.small_model.diffusion.pictures import report
from harness.small_model.diffusion.sample import sample
from harness.small_model.diffusion.teacher import Teacher, TeacherTrainer
from harness.small_model.diffusion.watch import keys_of, table
from harness.small_model.scenes.clip import clip
from harness.small_model.scenes.rows import WIDTH
from harness.small_model.scenes.scene import MOST
from harness.small_model.training.loop import batches
from harness.small_model.training.objective import Batch
from harness.small_model.training.optim import initialise
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.state import load_state
from harness.small_model.training.teacher import TeacherForcing
from harness.system.errors import UserError

CPU = torch.device("cpu")
DIMS = WanDims(
    dim=32, num_layers=2, num_heads=2, ffn_dim=48, text_dim=WIDTH, freq_dim=16, place_waves=2,
    clock_frames=12,
)  # fmt: skip
SPEC = CacheSpec(num_layers=2, num_heads=2, head_dim=16, grid=(8, 8), chunk_frames=3, window=None)
OBJECTIVE = DiffusionForcing(SPEC)
STAGE = Stage(frames=6, batch=2, lr=1e-2, steps=4, from_start=0.5)


def training(folder: Path, stage: Stage = STAGE) -> Training:
    return Training([stage], str(folder), warmup_steps=1, decay_from=1.0, log_steps=1)


def trainer(folder: Path, stage: Stage = STAGE) -> TeacherTrainer:
    return TeacherTrainer(training(folder, stage), Wan(DIMS), OBJECTIVE, CPU, KeyShape())


def source(stage: Stage, step: int) -> Iterator[Batch]:
    return batches(
        Windows(training(Path(), stage), stage, 3, drop=0.1, layout=0.5), step, workers=0
    )


@pytest.fixture
def network() -> Wan:
    network = Wan(DIMS)
    initialise(network, 0)
    KeyShape().apply(network, 0)
    for weight in network.parameters():  # branches begin silent; here they speak
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("from_start", [True, False])
def test_every_chunk_has_a_noise_level_of_its_own(from_start: bool) -> None:
    sigma = OBJECTIVE.levels(64, 12, from_start, torch.Generator().manual_seed(0))
    chunks = sigma.view(64, 4, 3)
    assert (chunks == chunks[:, :, :1]).all()
    chunks = chunks[:, :, 0]
    assert (chunks[:, -1] > 0).all() and sigma.max() <= 1
    assert (chunks[:, 0] == 0).all() != from_start
    noisy = chunks[chunks > 0]
    assert noisy.unique().numel() == noisy.numel()
    clean = (chunks[:, 1:-1] == 0).float().mean()
    assert 0.1 < clean < 0.3


def test_the_pass_is_causal_by_chunks(network: Wan) -> None:
    x = torch.randn(1, 9, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 6:] += 1
    t = torch.tensor([[100.0] * 3 + [900.0] * 3 + [500.0] * 3])
    text = network.text_kv(torch.zeros(1, 10, WIDTH))
    flows = []
    for given in (x, other):
        forcing = TeacherForcing(SPEC, CPU)
        flows.append(network(given, t, text, forcing, forcing.plan(range(9), "history")))
    assert torch.equal(flows[0][:, :6], flows[1][:, :6])
    assert not torch.equal(flows[0][:, 6:], flows[1][:, 6:])


def test_offsets_and_gains_of_keys_are_kept_while_all_else_is_trained(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    before = {name: weight.clone() for name, weight in one.network.state_dict().items()}
    one.run(source)
    for name, weight in one.network.state_dict().items():
        is_kept = name.endswith(KEPT)
        assert torch.equal(before[name], weight) == is_kept, name
    bias = one.network.state_dict()["blocks.0.self_attn.k.bias"]
    assert bias.abs().median() > 1
    assert torch.equal(one.average.weights["blocks.0.self_attn.k.bias"], bias)


@pytest.mark.parametrize("position", [0, 5, 40])
def test_gains_of_queries_and_keys_cancel_in_scores(position: int) -> None:
    network = Wan(DIMS)
    initialise(network, 0)
    KeyShape(offset=0.0, outliers=0.3).apply(network, 3)
    attention: Any = network.blocks[0]
    q_gain, k_gain = attention.self_attn.norm_q.weight, attention.self_attn.norm_k.weight
    assert k_gain.max() / k_gain.median() > 2
    draws = torch.Generator().manual_seed(0)
    q, k = (torch.randn(64, 32, generator=draws) for _ in range(2))
    turns = Rope(16, (8, 8), CPU)

    def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        here, there = (turns.frames([at]).view().flatten(0, 1) for at in (0, position))
        return rotate(q[:, :16], here) @ rotate(k[:, :16], there).T

    torch.testing.assert_close(scores(q * q_gain, k * k_gain), scores(q, k), rtol=0, atol=1e-4)


def test_a_training_may_go_on_from_given_weights(tmp_path: Path) -> None:
    given = trainer(tmp_path / "given")
    given.run(source)
    start = given.network
    one = TeacherTrainer(
        training(tmp_path / "on", STAGE), Wan(DIMS), OBJECTIVE, CPU, KeyShape(), start
    )
    assert one.clock.step == 0
    for name, weight in start.state_dict().items():
        assert torch.equal(one.network.state_dict()[name], weight), name
        assert torch.equal(one.average.weights[name], weight), name


def test_a_gradient_that_is_not_finite_leaves_the_checkpoint(tmp_path: Path) -> None:
    one = trainer(tmp_path, replace(STAGE, steps=4))

    def third_is_nan(stage: Stage, step: int) -> Iterator[Batch]:
        for count, batch in enumerate(source(stage, step)):
            if count == 2:
                one.save()
                batch = replace(batch, x_BFChw=batch.x_BFChw * float("nan"))
            yield batch

    with pytest.raises(UserError, match="the gradient of step 2 is not finite"):
        one.run(third_is_nan)
    assert all(weight.isfinite().all() for weight in one.network.state_dict().values())
    assert trainer(tmp_path, replace(STAGE, steps=4)).clock.step == 2


def test_a_resumed_training_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run(source)

    def two_then_stop(stage: Stage, step: int) -> Iterator[Batch]:
        for count, batch in enumerate(source(stage, step)):
            if count == 1:
                os.kill(os.getpid(), signal.SIGTERM)  # heard at the end of this step
            yield batch

    assert not trainer(tmp_path / "parts").run(two_then_stop)
    again = trainer(tmp_path / "parts")
    assert again.clock.step == 2
    assert again.run(source)
    for ours, theirs in (
        (again.network.state_dict(), whole.network.state_dict()),
        (again.average.weights, whole.average.weights),
    ):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [[row["loss"] for row in each.rows] for each in (again, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_resumed_training_takes_new_lengths_and_an_older_list_of_sizes(tmp_path: Path) -> None:
    trainer(tmp_path, replace(STAGE, steps=2)).run(source)
    state = load_state(tmp_path, CPU)
    assert state is not None
    del state.dims["fps_rows"]  # older checkpoints lack sizes that have a default now
    state.save(tmp_path)
    longer = trainer(tmp_path, replace(STAGE, steps=3))
    assert longer.clock.step == 2
    assert longer.run(source) and longer.clock.step == 3
    state.dims["num_layers"] = 1
    state.save(tmp_path)
    with pytest.raises(UserError, match="a network of"):
        trainer(tmp_path)


def test_the_network_knows_the_time_of_a_frame_up_to_its_last(network: Wan) -> None:
    x = torch.randn(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    text, t = network.text_kv(torch.zeros(1, 10, WIDTH)), torch.full((1, 3), 500.0)
    flows = {}
    for first in (0, 3, 12, 15):
        forcing = TeacherForcing(SPEC, CPU, first)
        plan = forcing.plan(range(first, first + 3), "history")
        flows[first] = network(x, t, text, forcing, plan)
    assert (flows[0] - flows[3]).abs().max() > 1e-3
    torch.testing.assert_close(flows[12], flows[15], atol=1e-5, rtol=0)


def test_a_window_within_a_video_is_computed_as_at_the_start_but_for_the_clock(
    network: Wan,
) -> None:
    network.clock_embedding.weight.zero_()
    x = torch.randn(1, 9, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    text, t = network.text_kv(torch.zeros(1, 10, WIDTH)), torch.full((1, 9), 500.0)
    flows = []
    for first in (0, 6):
        forcing = TeacherForcing(SPEC, CPU, first)
        plan = forcing.plan(range(first, first + 9), "history")
        flows.append(network(x, t, text, forcing, plan))
    torch.testing.assert_close(*flows, atol=1e-4, rtol=0)


def test_it_learns(tmp_path: Path) -> None:
    stage = Stage(frames=3, batch=2, lr=2e-2, steps=60, from_start=1.0)
    one = trainer(tmp_path, stage)
    batch = next(source(stage, 0))
    assert one.run(lambda stage, step: iter(lambda: batch, None))
    losses = [row["loss"] for row in one.rows]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])


def test_batches_are_functions_of_their_step_and_some_have_no_prompt() -> None:
    stage = Stage(frames=3, batch=40, lr=1e-3, steps=1, from_start=1.0)
    windows = Windows(training(Path(), stage), stage, 3, drop=0.3, layout=0.5)
    one, again, other = windows[5], windows[5], windows[6]
    assert torch.equal(one.x_BFChw, again.x_BFChw) and torch.equal(one.text_BTE, again.text_BTE)
    assert not torch.equal(one.x_BFChw, other.x_BFChw)
    told = one.text_BTE.flatten(1).any(1).float().mean()
    assert 0.4 < told < 0.95
    assert one.x_BFChw.shape == (40, 3, 16, GRID, GRID)
    assert 0.3 < one.x_BFChw[:, :, 0].std() < 3


def test_pictures_show_three_things_and_are_chunks_of_their_own(tmp_path: Path) -> None:
    stage = Stage(frames=3, batch=2, lr=1e-3, steps=4, from_start=0.0, pictures=0.5)
    windows = Windows(training(Path(), stage), stage, 3, drop=0.0, layout=1.0)
    shapes = [windows[step].x_BFChw.shape[:2] for step in range(6)]
    assert set(shapes) == {(2, 3), (6, 1)}
    batch = windows[shapes.index((6, 1))]
    assert batch.first == 0
    # Rows of the three acts of three things, after the row of the setting.
    assert batch.text_BTE[:, 1:].any(2).all()
    sigma = OBJECTIVE.levels(8, 1, True, torch.Generator().manual_seed(0))
    assert sigma.shape == (8, 1) and (sigma > 0).all()
    one = trainer(tmp_path, stage)
    assert one.run(source) and one.clock.step == 4


def test_true_pictures_are_recognized_and_those_of_another_prompt_are_not() -> None:
    clips = [clip(seed, MOST) for seed in range(2)]
    true = torch.stack([encode(one.keyframes(range(1))) for one in clips])
    table = report(clips, true, "true")
    assert [line[:3] for line in table.lines] == [["kind", "1.00", "6"], ["colour", "1.00", "6"]]
    swapped = report(clips, true.flip(0), "swapped")
    assert all(float(line[1]) < 0.5 for line in swapped.lines)


def test_windows_that_do_not_suit_model_and_loss_are_refused() -> None:
    five = training(Path(), Stage(frames=5, batch=1, lr=1e-3, steps=1))
    with pytest.raises(UserError, match="give a multiple of 3 up to 42"):
        five.demand_fit(3, pictures=True)
    pictures = training(Path(), Stage(frames=3, batch=1, lr=1e-3, steps=1, pictures=0.5))
    pictures.demand_fit(3, pictures=True)
    with pytest.raises(UserError, match="give 0, only a teacher learns from them"):
        pictures.demand_fit(3, pictures=False)


def test_cells_count_more_where_things_are() -> None:
    boxes = np.array([[[8.0, 16.0, 24.0, 32.0], [np.nan] * 4]])
    weights = cell_weights(boxes, focus=3.0)
    assert weights.shape == (2, GRID, GRID)
    assert (weights[0, 2:4, 1:3] == 3).all()
    assert weights[0].sum() < GRID * GRID + 2 * 16 + 1
    assert (weights[1] == 1).all()


def test_key_statistics_of_known_keys() -> None:
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 3200, 8, generator=draws)
    plain = key_statistics(noise)
    assert plain.zero_free < 0.01 and abs(plain.kurtosis - 3) < 0.2 and plain.largest < 1.2
    moved = noise.clone()
    moved[:, :, :4] += 5  # half of the channels
    shifted = key_statistics(moved)
    assert 0.45 < shifted.zero_free < 0.55
    assert 4.5 < shifted.offset[-1] < 5.5 and shifted.offset[0] < 0.2
    scaled = noise.clone()
    scaled[:, :, 0] *= 10
    assert 8 < key_statistics(scaled).largest < 12
    assert key_statistics(scaled).energy[0] > 0.9 > plain.energy[0]
    with pytest.raises(ValueError, match="100 tokens"):
        key_statistics(noise[:, :100])


def test_given_keys_reach_zero_less_often(network: Wan) -> None:
    stage = Stage(frames=6, batch=1, lr=1e-3, steps=1, from_start=1.0)
    batch = Windows(training(Path(), stage), stage, 3, drop=0.0, layout=1.0)[0]
    given = keys_of(network, SPEC, batch)
    initialise(network, 0)
    drawn = keys_of(network, SPEC, batch)
    assert all(a.zero_free > b.zero_free + 0.2 for a, b in zip(given, drawn, strict=True))
    assert len(table(given).splitlines()) == 3


def test_sampling_follows_prompt_and_seed(network: Wan) -> None:
    text = torch.randn(2, 10, WIDTH, generator=torch.Generator().manual_seed(0))
    teacher = Teacher(steps=3)
    one = sample(network, SPEC, teacher, text, 6, seed=0)
    assert one.shape == (2, 6, 16, 16, 16) and one.isfinite().all()
    assert torch.equal(one, sample(network, SPEC, teacher, text, 6, seed=0))
    assert not torch.equal(one, sample(network, SPEC, teacher, text, 6, seed=1))
    assert not torch.allclose(one, sample(network, SPEC, teacher, text + 1, 6, seed=0))


def test_the_shipped_settings_fit_the_limits() -> None:
    config = configured("+train=forcing", "method=bf16")
    model = instantiate(config["model"])
    count = sum(weight.numel() for weight in Wan(model.dims).parameters())
    assert count <= 12e6 and 2 * count <= 25e6
    instantiate(config["train"]).demand_fit(model.chunk_frames, pictures=True)
    assert instantiate(config["teacher"]).keys == KeyShape()


def test_wrong_words_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["draw"], "is no verb"),
        (["sample", f"train.folder={tmp_path}"], "found no checkpoint"),
        (["train", "train.colour=red"], "colour"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
