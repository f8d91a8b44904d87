"""Chunk discontinuity by optical flow: whether things jump where a chunk begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.downloads import weights
from harness.results.scores import Value
from harness.scoring.metrics.discontinuity import Discontinuity
from harness.scoring.metrics.metric import Clip, Frames, Unscorable
from harness.scoring.metrics.windows import Series
from harness.system.version import package_version

NETWORK = "raft_small"  # of conf/weights
MIN_SIDE_PX = 128  # below, the coarsest level of its correlations is empty
SIDE_PX = 8  # it halves the image three times
BATCH_PAIRS = 4


class FlowDiscontinuity(Discontinuity):
    """Mean length of the optical flow at joints, over that inside chunks.

    Source  the network: RAFT (Teed and Deng 2020), its small variant as torchvision ships it.
    """

    # Flow follows things, so a change of brightness at a joint does not count, and a jump of a
    # small thing on a still background does.
    name = "discontinuity_flow"
    what = "length of optical flow"
    unit = "pixels"
    one_at_a_time = True  # torch already uses a thread per core

    def __init__(self, data_dir: str | None = None) -> None:
        """Store the data folder, whose `weights` subfolder has the network's file."""
        self._data_dir = data_dir
        self._network: Any = None

    def version(self) -> str:
        """Describe the package and the preparation of frames."""
        package = f"torchvision {package_version('torchvision')}"
        return f"{package}, RAFT small, every pair of frames, full size, 12 updates"

    def missing(self) -> str | None:
        """Return why the network's file cannot be read; None if it is there."""
        reason = weights.missing([NETWORK], self._data_dir)
        return f"optical flow has no network: {reason}" if reason else None

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of the network's file."""
        found = weights.digest(NETWORK, self._data_dir)
        return {NETWORK: found} if found else {}

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of `columns`."""
        height, width = clip.frames_THWC.shape[1:3]
        if min(height, width) < MIN_SIDE_PX:
            raise Unscorable(
                f"optical flow needs frames of {MIN_SIDE_PX} pixels or more a side, these are "
                f"{height}x{width}"
            )
        return super().measure(clip, reference, device)

    def close(self) -> None:
        """Free the network."""
        self._network = None

    def changes(self, clip: Clip, device: str) -> Series:
        """Return the mean length of the flow from each frame to the next [T - 1] f64, in pixels."""
        import torch
        from torchvision.models.optical_flow import raft_small  # type: ignore[import-untyped]

        from harness.system import machine

        if self._network is None:
            # Construction draws random weights first. Fork: the global stream must not advance.
            with torch.random.fork_rng(devices=[]):
                network = raft_small()
            # weights_only: a checkpoint must not run code.
            path = weights.path(NETWORK, self._data_dir)
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
            self._network = network.eval().to(machine.choose_device(device))
        place = next(self._network.parameters()).device
        height, width = clip.frames_THWC.shape[1:3]
        # The network needs sides that it can halve three times. The padding repeats the border, and
        # its flow is cut off below.
        missing = (0, -width % SIDE_PX, 0, -height % SIDE_PX)

        def to_input(frames_THWC: Frames) -> torch.Tensor:
            pixels_TCHW = torch.from_numpy(frames_THWC.copy()).to(place).permute(0, 3, 1, 2)
            return torch.nn.functional.pad(pixels_TCHW / 127.5 - 1, missing, mode="replicate")

        lengths = []
        # Disable TF32, so that scores do not depend on the device.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            for start in range(0, len(clip.frames_THWC) - 1, BATCH_PAIRS):
                # Batches overlap by one frame, since n frames have n - 1 steps.
                frames_TCHW = to_input(clip.frames_THWC[start : start + BATCH_PAIRS + 1])
                # The network refines its flow twelve times; the last one is the result.
                flow_T2HW = self._network(frames_TCHW[:-1], frames_TCHW[1:])[-1]
                length_THW = flow_T2HW[..., :height, :width].norm(dim=1)
                lengths.append(length_THW.mean((-2, -1)).double().cpu().numpy())
        return np.concatenate(lengths)
