"""Distillation of the student: targets, rollouts, what is learned, resuming."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from harness.api import CacheSpec
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.config.compose import configured
from harness.models.checkpoints.load import load_weights
from harness.models.preset import VideoModel, wan_of
from harness.models.wan import Wan, WanDims
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from harness.small_model.codec import encode
from harness.small_model.diffusion.data import Windows
from harness.small_model.diffusion.keys import KEPT, KeyShape
from harness.small_model.diffusion.sample import held_out
from harness.small_model.diffusion.teacher import shipped
from harness.small_model.diffusion.watch import keys_of
from harness.small_model.scenes.rows import WIDTH
from harness.small_model.student.__main__ import main
from harness.small_model.student.distill import Distillation
from harness.small_model.student.few_steps import Flow, Noisy, StudentTrainer, roll_out
from harness.small_model.student.imitate import Imitation, renew_offsets
from harness.small_model.student.match import Matching, MatchingTrainer
from harness.small_model.training.loop import batches
from harness.small_model.training.objective import Batch
from harness.small_model.training.optim import initialise
from harness.small_model.training.stages import Stage, Training
from harness.system.errors import UserError
from tests.support.geometry import BF16

CPU = torch.device("cpu")
DIMS = WanDims(
    dim=32, num_layers=2, num_heads=2, ffn_dim=48, text_dim=WIDTH, freq_dim=16, place_waves=2,
    clock_frames=12,
)  # fmt: skip
SPEC = CacheSpec(num_layers=2, num_heads=2, head_dim=16, grid=(8, 8), chunk_frames=3, window=None)
SCHEDULE = Schedule(steps=(1000, 500), shift=5.0)
STAGE = Stage(frames=6, batch=2, lr=5e-3, steps=3, from_start=0.5)
ROLLOUT = replace(STAGE, from_start=1.0, rollout=2)


def teacher() -> Wan:
    network = Wan(DIMS)
    initialise(network, 0)
    KeyShape().apply(network, 0)
    for weight in network.parameters():  # branches begin silent; here they speak
        weight.data += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return network.eval().requires_grad_(False)


def objective(guidance: float = 2.0, substeps: int = 2) -> Distillation:
    return Distillation(SPEC, SCHEDULE, teacher(), guidance, substeps)


def trainer(folder: Path, stage: Stage = STAGE) -> StudentTrainer:
    training = Training([stage], str(folder), warmup_steps=1, decay_from=1.0, log_steps=1)
    return StudentTrainer(training, Wan(DIMS), objective(), CPU, teacher())


def matching(guidance: float = 2.0) -> Matching:
    critic = teacher().requires_grad_(True)
    return Matching(SPEC, SCHEDULE, teacher(), critic, guidance, guided_below=1.1, shift=3.0)


def matching_trainer(folder: Path, stage: Stage) -> MatchingTrainer:
    training = Training([stage], str(folder), warmup_steps=1, decay_from=1.0, log_steps=1)
    return MatchingTrainer(training, Wan(DIMS), matching(), CPU, teacher(), critic_lr=2.0)


def source(stage: Stage, step: int) -> Iterator[Batch]:
    training = Training([stage], "")
    return batches(Windows(training, stage, 3, drop=0.0, layout=1.0), step, workers=0)


def test_the_target_of_the_last_level_is_the_end_of_the_teachers_path() -> None:
    """A student with the teacher's weights is right where one step of it is the whole path."""
    batch = next(source(STAGE, 0))
    draws = torch.Generator().manual_seed(0)
    _, by_time = objective(guidance=1.0, substeps=1).loss(teacher(), batch, STAGE, draws)
    high, low = sorted(by_time, reverse=True)
    assert by_time[low] < 1e-8 < by_time[high]
    draws.manual_seed(0)
    _, guided = objective(guidance=3.0, substeps=1).loss(teacher(), batch, STAGE, draws)
    assert guided[low] > 1e-8


def test_paths_end_at_the_next_level_and_depend_on_history() -> None:
    batch = next(source(replace(STAGE, from_start=1.0), 0))
    clean, x = batch.x_BFChw, torch.randn(batch.x_BFChw.shape)
    chosen = torch.tensor([[0] * 3 + [1] * 3] * 2)
    task = objective(substeps=3)
    levels = task.levels()
    noisy = Noisy(batch.text_BTE, clean, x, chosen, torch.tensor(levels)[chosen], range(6))
    ends, sigma = task.follow(noisy)
    torch.testing.assert_close(sigma[0, [0, 3]], torch.tensor(levels[1:]), atol=1e-6, rtol=0)
    other, _ = task.follow(replace(noisy, clean_BFChw=clean + 1))
    assert torch.equal(ends[:, :3], other[:, :3]) and not torch.equal(ends[:, 3:], other[:, 3:])


def test_rollouts_are_what_the_sampler_makes() -> None:
    network, text = teacher(), torch.randn(1, 10, WIDTH)
    like = torch.zeros(1, 6, 16, 16, 16)
    made, passes = roll_out(network, SPEC, SCHEDULE, text, like, torch.Generator().manual_seed(0))
    assert passes.shape == (2, *made.shape)
    draws = torch.Generator().manual_seed(0)
    noise = {}
    for frames in (range(3), range(3, 6)):
        for number in range(2):
            noise[frames, number] = torch.randn(1, 3, 16, 16, 16, generator=draws)
    sampler, session = Sampler(network, SCHEDULE, 3), Session(SPEC, BF16, Portable(), 6, CPU)
    text_kv = network.text_kv(text)
    for frames in (range(3), range(3, 6)):
        solver, x = SCHEDULE.solver(first_chunk=False), noise[frames, 0]
        while not solver.finished:
            t = torch.full((1, 3), solver.time)
            flow = sampler.flow(x, t, text_kv, session, frames)
            x = solver.step(x, flow, lambda frames=frames: noise[frames, 1])
        sampler.flow(x, torch.zeros(1, 3), text_kv, session, frames, "history")
        torch.testing.assert_close(made[:, list(frames)], x, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("build", "stage"),
    [(trainer, STAGE), (trainer, ROLLOUT), (matching_trainer, ROLLOUT)],
    ids=["true history", "own history", "matching"],
)
def test_a_resumed_training_is_the_same_bit_for_bit(
    tmp_path: Path, build: Callable[[Path, Stage], StudentTrainer], stage: Stage
) -> None:
    whole = build(tmp_path / "whole", stage)
    whole.run(source)

    def one_then_stop(stage: Stage, step: int) -> Iterator[Batch]:
        for batch in source(stage, step):
            os.kill(os.getpid(), signal.SIGTERM)  # heard at the end of this step
            yield batch

    assert not build(tmp_path / "parts", stage).run(one_then_stop)
    again = build(tmp_path / "parts", stage)
    assert again.clock.step == 1 and again.run(source)
    for ours, theirs in zip(trained(again), trained(whole), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def trained(one: StudentTrainer) -> list[dict[str, torch.Tensor]]:
    """Return all weights that a training changes."""
    networks = [one.network.state_dict(), one.average.weights]
    if isinstance(one, MatchingTrainer):
        networks.append(one.objective.critic.state_dict())
    return networks


@pytest.mark.parametrize("stage", [STAGE, ROLLOUT], ids=["true history", "own history"])
def test_a_student_stays_where_critic_and_teacher_agree(stage: Stage) -> None:
    """Then only the critic has a gradient; with guidance, the student has one too."""
    batch, student = next(source(stage, 0)), teacher().requires_grad_(True)
    for guidance, moves in ((1.0, False), (3.0, True)):
        task, draws = matching(guidance), torch.Generator().manual_seed(0)
        student.zero_grad()
        loss, by_time = task.loss(student, batch, stage, draws)
        loss.backward()
        assert all((error > 1e-3) == moves for error in by_time.values())
        gradients = [network.head.head.weight.grad for network in (student, task.critic)]
        sizes = [float(each.abs().max()) for each in gradients if each is not None]
        assert (sizes[0] > 1e-3) == moves and sizes[1] > 1e-3
        assert all(weight.grad is None for weight in task.teacher.parameters())


@pytest.mark.parametrize(("teachers", "students"), [(1.0, 3.0), (3.0, 1.0)])
def test_a_student_moves_from_its_own_mean_to_the_teachers(
    monkeypatch: pytest.MonkeyPatch, teachers: float, students: float
) -> None:
    """Teacher and critic are replaced by the exact flows of two normal distributions."""
    task = matching(guidance=1.0)
    means, deviation, real = {task.teacher: teachers, task.critic: students}, 0.5, Noisy.flow

    def exact(noisy: Noisy, network: Wan, spec: CacheSpec, without_text: bool = False) -> Flow:
        if network not in means:
            return real(noisy, network, spec, without_text)

        def flow(x: torch.Tensor, sigma_BF: torch.Tensor) -> torch.Tensor:
            s = sigma_BF[:, :, None, None, None]
            rest = x - (1 - s) * means[network]
            variance = (1 - s) ** 2 * deviation**2 + s**2
            return (s - (1 - s) * deviation**2) * rest / variance - means[network]

        return flow

    monkeypatch.setattr(Noisy, "flow", exact)
    batch, student = next(source(ROLLOUT, 0)), teacher().requires_grad_(True)
    loss, _ = task.loss(student, batch, ROLLOUT, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, [student.head.head.bias])
    # A larger flow is a smaller clean chunk.
    assert ((gradient < 0) == (teachers < students)).all()


def test_a_training_is_not_resumed_as_one_of_another_kind(tmp_path: Path) -> None:
    trainer(tmp_path / "plain").save()
    with pytest.raises(UserError, match="holds a training without a critic"):
        matching_trainer(tmp_path / "plain", STAGE)
    matching_trainer(tmp_path / "matched", STAGE).save()
    with pytest.raises(UserError, match="holds a training with a critic"):
        trainer(tmp_path / "matched")


@pytest.mark.slow
def test_it_learns_from_the_teachers_weights_on_and_keeps_the_keys(tmp_path: Path) -> None:
    stage = Stage(frames=3, batch=4, lr=2e-2, steps=60, from_start=1.0)
    one = trainer(tmp_path, stage)
    start = teacher().state_dict()
    assert all(torch.equal(one.network.state_dict()[name], start[name]) for name in start)
    batch = next(source(stage, 0))
    assert one.run(lambda stage, step: iter(lambda: batch, None))
    losses = [row["loss"] for row in one.rows]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    ends = one.network.state_dict()
    assert all(torch.equal(ends[name], start[name]) == name.endswith(KEPT) for name in start)


def test_offsets_are_renewed_in_deviations_of_trained_projections() -> None:
    batch = next(source(replace(STAGE, from_start=1.0), 0))
    network = teacher()
    for block in network.blocks:  # training makes the projections larger
        block.self_attn.k.weight *= 4
    before = keys_of(network, SPEC, batch)
    gains = [block.self_attn.norm_k.weight.clone() for block in network.blocks]
    renew_offsets(network, SPEC, batch)
    after = keys_of(network, SPEC, batch)
    drawn = keys_of(teacher(), SPEC, batch)  # as large as they were drawn
    for i, block in enumerate(network.blocks):
        assert before[i].offset[1] < 0.5 * drawn[i].offset[1]
        assert after[i].offset[1] == pytest.approx(drawn[i].offset[1], rel=0.5)
        assert before[i].zero_free < after[i].zero_free
        # One factor for all channels, so outlier channels stay what they are.
        factors = block.self_attn.norm_k.weight / gains[i]
        torch.testing.assert_close(factors, factors[:1].expand_as(factors))
        assert factors[0] > 1


@pytest.mark.parametrize("stage", [STAGE, ROLLOUT], ids=["true history", "own history"])
def test_a_network_imitates_itself_without_error(stage: Stage) -> None:
    batch, draws = next(source(stage, 0)), torch.Generator().manual_seed(0)
    imitation = Imitation(SPEC, SCHEDULE, teacher())
    assert imitation.loss(teacher(), batch, stage, draws)[0] < 1e-10
    other = teacher()
    other.blocks[0].ffn[0].weight += 1
    assert imitation.loss(other, batch, stage, draws)[0] > 1e-4


def test_the_shipped_settings_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = configured("+train=student", "method=bf16")
    model: VideoModel = instantiate(config["model"])
    forcing = instantiate(configured("+train=forcing", "method=bf16")["model"])
    assert (model.dims, model.spec) == (forcing.dims, forcing.spec)
    passes = len(model.schedule.times(first_chunk=False))
    for name in ("student", "match", "rekey"):
        training: Training = instantiate(configured(f"+train={name}", "method=bf16")["train"])
        training.demand_fit(model.chunk_frames, pictures=False)
        rollouts = {stage.rollout for stage in training.stages}
        assert rollouts == ({passes} if name == "match" else {0, passes})
    for words, said in (
        (["draw"], "is no verb"),
        (["train", f"student.teacher_folder={tmp_path}"], "found no checkpoint"),
        (
            ["train", "model.dims.num_layers=2"],
            "model=small_forcing, which ships, has",
        ),
        (["match", f"student.folder={tmp_path}"], "found no checkpoint"),
        (["rekey", f"student.folder={tmp_path}"], "found no checkpoint"),
        (["rekey", "model.dims.num_layers=2"], "model=small, which ships, has model.dims of"),
        (["sample", f"train.folder={tmp_path}"], "found no checkpoint"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
    theirs = shipped("small_forcing", model).state_dict()
    assert theirs.keys() == wan_of(model).state_dict().keys()
    assert all(tensor.isfinite().all() for tensor in theirs.values())


def test_what_a_student_cannot_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="one list of steps"):
        replace(objective(), schedule=Schedule(first_steps=(1000,)))
    batch = next(source(STAGE, 0))
    with pytest.raises(ValueError, match="give 0, or 2"):
        objective().loss(teacher(), batch, replace(STAGE, rollout=1), torch.Generator())


def test_the_preset_is_the_network_and_the_schedule_that_are_trained() -> None:
    preset: VideoModel = instantiate(configured("model=small")["model"])
    trained: VideoModel = instantiate(configured("+train=student", "method=bf16")["model"])
    assert preset.dims == trained.dims and preset.schedule == trained.schedule
    assert preset.spec == trained.spec and preset.latent_size == trained.latent_size


def test_the_weights_that_ship_draw_what_the_prompt_says() -> None:
    """Each first chunk is closer to the clip of its own caption than to the other clips."""
    preset: VideoModel = instantiate(configured("model=small")["model"])
    clips, text = held_out(4, layout=True)
    network = wan_of(preset)
    load_weights(network, preset.path(Path()), ema=False, dtype=torch.float32, device=CPU)
    like = torch.zeros(len(clips), *preset.latent_shape(preset.chunk_frames))
    schedule, draws = preset.schedule, torch.Generator().manual_seed(0)
    assert isinstance(schedule, Schedule)
    made, _ = roll_out(network, preset.spec, schedule, text, like, draws)
    true = torch.stack([encode(each.keyframes(range(preset.chunk_frames))) for each in clips])
    errors = (made[:, None] - true[None]).square().flatten(2).mean(2)  # [made, true]
    assert errors.argmin(1).tolist() == [0, 1, 2, 3]
