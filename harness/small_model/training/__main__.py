"""`python -m harness.small_model.training [train | export | sample] [setting=value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.api import Method
from harness.config import messages
from harness.config.compose import configured
from harness.models.preset import VideoModel, wan_of
from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.training.stages import Training
from harness.small_model.training.state import saved_state
from harness.system import machine
from harness.system.errors import UserError
from harness.system.logs import remark
from harness.system.typed import build

VERBS = ("train", "export", "sample")
_SHOWN = 6  # clips of a sheet


@messages.verb(also=(ValueError,))
def main(words: Sequence[str]) -> int:
    """Run a verb with Hydra settings; exit code 2 means an error that the user can fix."""
    # By hand, because the other words are settings of Hydra and no options.
    if {"-h", "--help"} & set(words):
        print(__doc__, "Settings: conf/train/small.yaml and those of a run.", sep="\n\n  ")
        return 0
    # `make train-small` and a bare setting mean `train`.
    verb, *settings = words if words and "=" not in words[0] else ("train", *words)
    if verb not in VERBS:
        raise UserError(
            f"{verb} is no verb of harness.small_model.training: choose {', '.join(VERBS)}"
        )
    config = configured("+train=small", "method=bf16", *settings)
    return {"train": train, "export": export, "sample": sample}[verb](config)


def train(config: dict[str, Any]) -> int:
    """Train until the last stage ends or a signal arrives; the same command resumes."""
    from harness.small_model.training.data import Windows
    from harness.small_model.training.loop import Trainer, batches
    from harness.small_model.training.objective import Objective

    training: Training = build("train", config["train"])
    model: VideoModel = build("model", config["model"])
    device = machine.choose_device(config["run"]["device"])
    schedule: Any = model.schedule  # the few-step schedule of model=small
    objective = Objective(schedule, model.spec, training.history_noise)
    trainer = Trainer(training, wan_of(model), objective, device)
    finished = trainer.run(
        lambda stage, step: batches(
            Windows(training, stage, model.text, model.chunk_frames), step, training.workers
        )
    )
    remark(f"{'finished' if finished else 'stopped'} at step {trainer.clock.step}")
    return 0


def export(config: dict[str, Any]) -> int:
    """Write the averaged weights of the newest checkpoint and the loss curve."""
    from harness.small_model.training.export import export as write

    training: Training = build("train", config["train"])
    for name, value in write(saved_state(training.folder), _out(training)).items():
        print(f"{name}: {value}")
    return 0


def sample(config: dict[str, Any]) -> int:
    """Generate videos for held-out clips; print their drift and write a sheet of frames."""
    from harness.small_model.training.sample import SHEET, Studio, draw_sheet, report

    training: Training = build("train", config["train"])
    model: VideoModel = build("model", config["model"])
    method: Method = build("method", config["method"])
    device = machine.choose_device(config["run"]["device"])
    # A run's method, backend and sampler, so that a sheet shows what a run would make.
    backend = build("attention", config["attention"]).resolve(model.spec, method, device)
    studio = Studio(model, method, backend, device)
    shown = studio.show(
        saved_state(training.folder), range(training.samples), training.video_frames
    )
    print(report(shown, model.chunk_frames))
    _out(training).mkdir(parents=True, exist_ok=True)
    draw_sheet(_out(training) / SHEET, shown[:_SHOWN], model.fps / TEMPORAL_STRIDE)
    print(f"{_out(training) / SHEET}")
    return 0


def _out(training: Training) -> Path:
    return Path(training.out or training.folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
