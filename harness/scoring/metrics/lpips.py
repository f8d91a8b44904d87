"""Learned perceptual distance (LPIPS, AlexNet) to the BF16 video of the same prompt and seed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.downloads import weights
from harness.results.scores import Column, Value
from harness.scoring.metrics.metric import Clip, Frames, Metric, Unscorable, check_pair
from harness.scoring.metrics.windows import WINDOWS, Quantity, summarise
from harness.system.version import package_version

BACKBONE = "alexnet"  # of conf/weights; the linear heads ship with the package
BATCH_FRAMES = 8
MIN_SIDE_PX = 31  # smaller frames leave no output of AlexNet's last pooling layer


class Lpips(Metric):
    """LPIPS of each frame at full resolution, 0 for identical frames.

    Source  Zhang et al. 2018, weights v0.1, computed by the authors' package.
    """

    name = "lpips"
    against_reference = True
    one_at_a_time = True  # torch already uses a thread per core
    quantity = Quantity("lpips", "LPIPS", "lower")

    def __init__(self, data_dir: str | None = None) -> None:
        """Store the data folder, whose `weights` subfolder has the AlexNet file."""
        self._data_dir = data_dir
        self._model: Any = None

    def columns(self) -> tuple[Column, ...]:
        """Return the columns by windows of time."""
        return self.quantity.columns()

    def version(self) -> str:
        """Describe the package, the network and the preparation of frames."""
        package = f"lpips {package_version('lpips')}"
        return f"{package}, AlexNet, v0.1, every frame, full size, {WINDOWS}"

    def missing(self) -> str | None:
        """Return the reason if the package or the backbone's file is missing, else None."""
        # By its version, not by importing it: the package imports torch.
        if package_version("lpips") is None:
            return "LPIPS needs the package lpips: type pip install lpips"
        reason = weights.missing([BACKBONE], self._data_dir)
        return f"LPIPS has no backbone: {reason}" if reason else None

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of the backbone."""
        found = weights.digest(BACKBONE, self._data_dir)
        return {BACKBONE: found} if found else {}

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        video_THWC, reference_THWC = check_pair(clip, reference)
        if min(video_THWC.shape[1:3]) < MIN_SIDE_PX:
            raise Unscorable(
                f"LPIPS needs frames of {MIN_SIDE_PX} pixels or more a side, these are "
                f"{video_THWC.shape[1]}x{video_THWC.shape[2]}"
            )
        import lpips
        import torch

        from harness.system import machine

        if self._model is None:
            # Construction draws random weights first. Fork: the global stream must not advance.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torchvision, about lpips's argument names
                # pnet_rand: no backbone is downloaded here.
                model = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
            # The backbone comes from our file instead of torch's hub. The package numbers AlexNet's
            # layers by slices (slice<k>.<layer>.<kind>), the file by `features`.
            backbone = weights.path(BACKBONE, self._data_dir)
            state = torch.load(backbone, map_location="cpu", weights_only=True)
            places = {name.split(".", 1)[1]: name for name in model.net.state_dict()}
            model.net.load_state_dict({x: state[f"features.{name}"] for name, x in places.items()})
            self._model = model.eval().to(machine.choose_device(device))
        place = next(self._model.parameters()).device

        def to_input(frames_THWC: Frames) -> torch.Tensor:
            # Frames may be read-only views of a file, which torch warns about.
            pixels_TCHW = torch.from_numpy(frames_THWC.copy()).to(place).permute(0, 3, 1, 2)
            # The network takes values of -1 to 1.
            return pixels_TCHW.float() / 127.5 - 1

        distances = []
        # Disable TF32, so that scores do not depend on the device.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            # In batches, which bound the activations; frames do not depend on each other.
            for start in range(0, len(video_THWC), BATCH_FRAMES):
                batch = slice(start, start + BATCH_FRAMES)
                distance = self._model(to_input(video_THWC[batch]), to_input(reference_THWC[batch]))
                distances.append(distance.flatten().cpu().numpy())
        return self.quantity.row(summarise(np.concatenate(distances).astype(np.float64), clip))

    def close(self) -> None:
        """Free the network."""
        self._model = None
