"""`python -m harness.small_model.diffusion <verb> [setting=value ...]`; the verbs are in `main`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.config import messages
from harness.config.compose import configured
from harness.models.preset import VideoModel, wan_of
from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.diffusion.teacher import Teacher, TeacherTrainer, shipped
from harness.small_model.scenes.clip import Clip
from harness.small_model.scenes.scene import MOST
from harness.small_model.training.loop import batches
from harness.small_model.training.stages import Training
from harness.small_model.training.state import averaged, saved_state
from harness.system import machine
from harness.system.errors import UserError
from harness.system.logs import remark
from harness.system.typed import build


@messages.verb(also=(ValueError,))
def main(words: Sequence[str]) -> int:
    """Run a verb with Hydra settings; exit code 2 means an error that the user can fix."""
    verbs = {
        "train": train,
        "sample": sample,
        "pictures": pictures,
        "rates": rates,
        "keys": keys,
        "export": export,
    }
    return run_verb(words, verbs, "forcing")


def run_verb(
    words: Sequence[str], verbs: Mapping[str, Callable[[dict[str, Any]], int]], training: str
) -> int:
    """Run the verb before the settings, `train` without one, with a file of conf/train.

    Raises  UserError: an unknown verb, or wrong settings.
    """
    # Checked here, because argparse would refuse the other words, which are settings for Hydra.
    if {"-h", "--help"} & set(words):
        print(f"Verbs: {', '.join(verbs)}. Settings: conf/train/{training}.yaml and a run's.")
        return 0
    verb, *settings = words if words and "=" not in words[0] else ("train", *words)
    if verb not in verbs:
        raise UserError(f"{verb} is no verb of this command: choose {', '.join(verbs)}")
    # A run's configuration with the training added, so that model settings are those of a run.
    return verbs[verb](configured(f"+train={training}", "method=bf16", *settings))


def train(config: dict[str, Any]) -> int:
    """Train until the last stage ends or a signal arrives; the same command resumes."""
    from harness.small_model.diffusion.data import Windows
    from harness.small_model.diffusion.objective import DiffusionForcing

    training: Training = build("train", config["train"])
    teacher: Teacher = build("teacher", config["teacher"])
    model: VideoModel = build("model", config["model"])
    objective = DiffusionForcing(model.spec, teacher.shift, teacher.clean)
    device = machine.choose_device(config["run"]["device"])
    start = shipped("small_forcing", model) if teacher.from_shipped else None
    trainer = TeacherTrainer(training, wan_of(model), objective, device, teacher.keys, start)
    finished = trainer.run(
        lambda stage, step: batches(
            Windows(training, stage, model.chunk_frames, teacher.drop, teacher.layout),
            step,
            training.workers,
        )
    )
    remark(f"{'finished' if finished else 'stopped'} at step {trainer.clock.step}")
    return 0


def sample(config: dict[str, Any]) -> int:
    """Generate videos for held-out clips and write a sheet of generated and true frames."""
    return write_sheet(config, *_generated(config))


def write_sheet(
    config: dict[str, Any], clips: Sequence[Clip], made: Tensor, latent_fps: float
) -> int:
    """Write a sheet of the true clips and of what was generated for them [B, F, C, h, w]."""
    from harness.small_model.diffusion.sample import SHEET, draw_sheet

    training: Training = build("train", config["train"])
    path = Path(training.out or training.folder) / SHEET
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_sheet(path, clips, made, latent_fps)
    print(path)
    return 0


def rates(config: dict[str, Any]) -> int:
    """Generate videos for held-out clips and print what the world's detector finds in them."""
    clips, made, _ = _generated(config)
    return print_rates(config, clips, made)


def print_rates(config: dict[str, Any], clips: Sequence[Clip], made: Tensor) -> int:
    """Print what the world's detector finds in generated videos [B, F, C, h, w] of clips."""
    from harness.small_model.codec import preview
    from harness.small_model.scenes.report import Videos, report

    scenes = tuple(each.scene for each in clips)
    # Decoded linearly, as the true clips of the table are: the trained decoder is not judged here.
    report(Videos(config["train"]["folder"], scenes, tuple(map(preview, made)))).show()
    return 0


def pictures(config: dict[str, Any]) -> int:
    """Generate single pictures of three things each; print how often kind and colour are right."""
    from harness.small_model.diffusion.pictures import report
    from harness.small_model.diffusion.sample import held_out
    from harness.small_model.diffusion.sample import sample as generate

    training: Training = build("train", config["train"])
    model: VideoModel = build("model", config["model"])
    teacher: Teacher = build("teacher", config["teacher"])
    # With positions: a thing is compared where its row says it is.
    clips, text = held_out(training.samples, layout=True, things=MOST)
    network = averaged(training.folder, model)
    made = generate(network, replace(model.spec, chunk_frames=1), teacher, text, 1, seed=0)
    report(clips, made, training.folder).show()
    return 0


def keys(config: dict[str, Any]) -> int:
    """Print statistics of the keys of every layer for one true video of full length."""
    from harness.small_model.diffusion.data import Windows
    from harness.small_model.diffusion.watch import keys_of, table

    training: Training = build("train", config["train"])
    model: VideoModel = build("model", config["model"])
    # The last stage has whole videos; every window has its prompt and positions.
    videos = replace(training.stages[-1], pictures=0.0)
    clips = Windows(training, videos, model.chunk_frames, drop=0.0, layout=1.0)
    print(table(keys_of(averaged(training.folder, model), model.spec, clips[0])))
    return 0


def export(config: dict[str, Any]) -> int:
    """Write the averaged weights of the newest checkpoint in BF16, and the loss curve."""
    from harness.small_model.training.export import export as write

    training: Training = build("train", config["train"])
    out = Path(training.out or training.folder)
    for name, value in write(saved_state(training.folder), out).items():
        print(f"{name}: {value}")
    return 0


def _generated(config: dict[str, Any]) -> tuple[list[Clip], Tensor, float]:
    """Return held-out clips, the teacher's videos of them, and latent frames per second."""
    from harness.small_model.diffusion.sample import held_out
    from harness.small_model.diffusion.sample import sample as generate

    training: Training = build("train", config["train"])
    model: VideoModel = build("model", config["model"])
    teacher: Teacher = build("teacher", config["teacher"])
    clips, text = held_out(training.samples, layout=teacher.sample_layout)
    network = averaged(training.folder, model)
    made = generate(network, model.spec, teacher, text, training.video_frames, seed=0)
    return clips, made, model.fps / TEMPORAL_STRIDE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
