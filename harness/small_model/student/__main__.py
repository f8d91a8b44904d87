"""`python -m harness.small_model.student <verb> [setting=value ...]`; the verbs are in `main`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.config import messages
from harness.models.preset import VideoModel, wan_of
from harness.models.wan import Wan
from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.diffusion.__main__ import export, print_rates, run_verb, write_sheet
from harness.small_model.diffusion.teacher import Teacher, shipped
from harness.small_model.scenes.clip import Clip
from harness.small_model.student.distill import Distillation, Student
from harness.small_model.student.few_steps import StudentTrainer, roll_out
from harness.small_model.training.loop import batches
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.state import averaged
from harness.system import machine
from harness.system.logs import remark
from harness.system.typed import build

if TYPE_CHECKING:
    from harness.small_model.diffusion.data import Windows


@messages.verb(also=(ValueError,))
def main(words: Sequence[str]) -> int:
    """Run a verb with Hydra settings; exit code 2 means an error that the user can fix."""
    verbs = {
        "train": train,
        "match": match,
        "rekey": rekey,
        "sample": sample,
        "rates": rates,
        "export": export,
    }
    # Some trainings have settings of their own.
    first = words[0] if words else "train"
    return run_verb(words, verbs, first if first in ("match", "rekey") else "student")


def train(config: dict[str, Any]) -> int:
    """Train until the last stage ends or a signal arrives; the same command resumes."""
    teacher: Teacher = build("teacher", config["teacher"])
    student: Student = build("student", config["student"])
    model: VideoModel = build("model", config["model"])
    schedule: Any = model.schedule  # a few-step schedule
    network = _network("small_forcing", student.teacher_folder, model)
    training: Training = build("train", config["train"])
    device = machine.choose_device(config["run"]["device"])
    objective = Distillation(
        model.spec, schedule, network.to(device), teacher.guidance, student.substeps
    )
    return _run(config, StudentTrainer(training, wan_of(model), objective, device, network))


def match(config: dict[str, Any]) -> int:
    """Train a distilled student by distribution matching, which makes its videos sharp.

    Like `train`, the same command resumes.
    """
    from harness.small_model.student.match import Matching, MatchingTrainer

    teacher: Teacher = build("teacher", config["teacher"])
    student: Student = build("student", config["student"])
    model: VideoModel = build("model", config["model"])
    training: Training = build("train", config["train"])
    schedule: Any = model.schedule
    device = machine.choose_device(config["run"]["device"])
    start = _network("small", student.folder, model)
    judge = _network("small_forcing", student.teacher_folder, model).to(device)
    critic = deepcopy(judge).train().requires_grad_(True)
    objective = Matching(
        model.spec,
        schedule,
        judge,
        critic,
        teacher.guidance,
        student.guided_below,
        student.critic_shift,
    )
    return _run(
        config,
        MatchingTrainer(training, wan_of(model), objective, device, start, student.critic_lr),
    )


def rekey(config: dict[str, Any]) -> int:
    """Enlarge the key offsets of a student, then train it to give its earlier outputs again.

    Like `train`, the same command resumes.
    """
    from harness.small_model.student.imitate import Imitation, renew_offsets

    student: Student = build("student", config["student"])
    model: VideoModel = build("model", config["model"])
    training: Training = build("train", config["train"])
    schedule: Any = model.schedule
    network = _network("small", student.folder, model)
    device = machine.choose_device(config["run"]["device"])
    renewed = deepcopy(network)
    # Measure on whole videos, as the last training stage uses them.
    renew_offsets(renewed, model.spec, _windows(config, training.stages[-1])[0])
    objective = Imitation(model.spec, schedule, network.to(device))
    return _run(config, StudentTrainer(training, wan_of(model), objective, device, renewed))


def _network(preset: str, folder: str | None, model: VideoModel) -> Wan:
    """Return the weights that ship with a preset, or those of a training's folder."""
    # Of a checkpoint, the averaged weights: the weights that ship are averages too.
    return shipped(preset, model) if folder is None else averaged(folder, model)


def _run(config: dict[str, Any], trainer: StudentTrainer) -> int:
    """Run a training until it ends or is stopped."""
    finished = trainer.run(
        lambda stage, step: batches(_windows(config, stage), step, trainer.training.workers)
    )
    remark(f"{'finished' if finished else 'stopped'} at step {trainer.clock.step}")
    return 0


def _windows(config: dict[str, Any], stage: Stage) -> Windows:
    from harness.small_model.diffusion.data import Windows

    training: Training = build("train", config["train"])
    teacher: Teacher = build("teacher", config["teacher"])
    model: VideoModel = build("model", config["model"])
    # No window without its prompt: guidance is in the target, and the student runs one branch.
    return Windows(training, stage, model.chunk_frames, drop=0.0, layout=teacher.layout)


def sample(config: dict[str, Any]) -> int:
    """Generate videos for held-out clips and write a sheet of generated and true frames."""
    return write_sheet(config, *_generated(config))


def rates(config: dict[str, Any]) -> int:
    """Generate videos for held-out clips and print what the world's detector finds in them."""
    clips, made, _ = _generated(config)
    return print_rates(config, clips, made)


def _generated(config: dict[str, Any]) -> tuple[list[Clip], Tensor, float]:
    """Return held-out clips, the student's videos of them, and latent frames per second."""
    from harness.small_model.diffusion.sample import held_out

    training: Training = build("train", config["train"])
    model: VideoModel = build("model", config["model"])
    teacher: Teacher = build("teacher", config["teacher"])
    clips, text = held_out(training.samples, layout=teacher.sample_layout)
    # `roll_out` takes the shape of the videos from it.
    like = torch.zeros(len(clips), *model.latent_shape(training.video_frames))
    schedule: Any = model.schedule
    # The same noise at every call, so that sheets of two steps compare.
    draws = torch.Generator().manual_seed(0)
    network = averaged(training.folder, model)
    made, _ = roll_out(network, model.spec, schedule, text, like, draws)
    return clips, made, model.fps / TEMPORAL_STRIDE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
