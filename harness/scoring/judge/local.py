"""A local judge: a vision-language model of transformers, never downloaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.scoring.judge.judge import Judge, Verdict, check_frames, images
from harness.scoring.judge.question import question, read
from harness.scoring.metrics.metric import Frames
from harness.system.errors import UserError
from harness.system.files import sha256


class Local(Judge):
    """A judge whose model is loaded once, by the first question; see conf/judge/local.yaml.

    Raises  UserError: a setting out of range.
    """

    one_at_a_time = True

    def __init__(
        self,
        path: str | None = None,
        num_frames: int = 8,
        max_side_px: int | None = 512,
        temperature: float = 0.0,
        seed: int = 0,
        max_new_tokens: int = 1024,
    ) -> None:
        check_frames(num_frames, max_side_px)
        if not temperature >= 0 or max_new_tokens < 1:
            raise UserError("judge: give a temperature from 0 and at least one of max_new_tokens")
        self.folder = Path(path).expanduser() if path is not None else None
        self.num_frames, self.max_side_px = num_frames, max_side_px
        self.temperature, self.seed, self.max_new_tokens = temperature, seed, max_new_tokens
        self.answers_vary = temperature > 0
        self._loaded: tuple[str, Any, Any] | None = None  # device, model, processor

    def identity(self) -> str:
        """Describe the model by the name of its folder, the frames and the sampling."""
        # Without importing it: the parent asks for versions, and transformers imports torch.
        try:
            package = f"transformers {version('transformers')}"
        except PackageNotFoundError:
            package = "no transformers"
        size = f"at most {self.max_side_px} px a side" if self.max_side_px else "full size"
        return (
            f"local model {self.folder.name if self.folder else None}, {package}, "
            f"{self.num_frames} frames, {size}, temperature {self.temperature}, seed {self.seed}, "
            f"at most {self.max_new_tokens} tokens"
        )

    def missing(self) -> str | None:
        """Return the reason if the folder, the model or the package is missing, else None."""
        if self.folder is None:
            return "the judge has no model: type judge.path=<folder of a model>"
        if not (self.folder / "config.json").is_file() or not self._files:
            return (
                f"{self.folder} holds no model (config.json and *.safetensors): type judge"
                ".path=<folder of a vision-language model as transformers saves it>"
            )
        if importlib.util.find_spec("transformers") is None:
            return "the local judge needs transformers: type pip install video-kv-bench[wan]"
        return None

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of every file of weights; computed once per process."""
        return self._digests

    def completed(
        self, events: Sequence[str], frames_THWC: Frames, vote: int = 0, device: str = "cpu"
    ) -> Verdict:
        """Ask the model which events the frames show.

        Shapes  frames_THWC [T, H, W, 3] u8 RGB.
        Raises  Unscorable: an answer that cannot be read.
        """
        import torch

        shown = images(frames_THWC, self.num_frames, self.max_side_px)
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in shown]
        content.append({"type": "text", "text": question(events, len(shown))})
        model, processor = self._model(device)
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(device, model.dtype)
        # Temperature 0 is no sampling: the likeliest token each time.
        sampling: dict[str, Any] = {"do_sample": False}
        if self.answers_vary:
            sampling = {"do_sample": True, "temperature": self.temperature}
        # Sampling must not advance the global random streams. Each vote has a seed of its own, so
        # that it gives the same answer in any order of questions.
        cuda = [torch.device(device)] if device.startswith("cuda") else []
        with torch.inference_mode(), torch.random.fork_rng(cuda):
            torch.manual_seed(self.seed + vote)
            tokens = model.generate(**inputs, max_new_tokens=self.max_new_tokens, **sampling)
        # The model returns the question too.
        new = tokens[0, inputs["input_ids"].shape[1] :]
        return read(str(processor.decode(new, skip_special_tokens=True)), len(events))

    def close(self) -> None:
        """Free the model."""
        self._loaded = None

    @cached_property
    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors")) if self.folder else []

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {file.name: sha256(file) for file in self._files}

    def _model(self, device: str) -> tuple[Any, Any]:
        """Return the model and its processor; load them again only for a different device."""
        if self._loaded is None or self._loaded[0] != device:
            from transformers import AutoModelForImageTextToText, AutoProcessor

            # Free the old copy before loading: two might not fit.
            self._loaded = None
            processor = AutoProcessor.from_pretrained(self.folder, local_files_only=True)
            model = AutoModelForImageTextToText.from_pretrained(
                self.folder, local_files_only=True, dtype="auto"
            )
            self._loaded = (device, model.to(device).eval(), processor)
        return self._loaded[1:]
