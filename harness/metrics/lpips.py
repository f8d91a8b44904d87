"""Learned perceptual distance (LPIPS, AlexNet) to the BF16 video of the same prompt and seed."""

from __future__ import annotations

import functools
import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from harness.metrics import Frames, Series, check_pair

BACKBONE = "alexnet-owt-7be5be79.pth"  # the name torchvision saves it under
SHA256_PREFIX = "7be5be79"
BATCH_FRAMES = 8
MIN_SIDE_PX = 31  # below, the last pooling layer of AlexNet has nothing left


def per_frame(video_THWC: Frames, reference_THWC: Frames, device: str = "cpu") -> Series:
    """LPIPS distance of each frame at full resolution; lower is closer, 0 for identical frames.

    Source  Zhang et al. 2018, weights v0.1, by the authors' package.
    Shapes  both [T, H, W, 3] u8 -> [T] f64.
    Raises  ValueError: the two videos differ in shape, or LPIPS is unavailable (with the reason).
    """
    import torch

    check_pair(video_THWC, reference_THWC)
    if reason := unavailable_reason(video_THWC.shape[1:3]):
        raise ValueError(reason)
    model = _model(device)

    def to_input(frames_THWC: Frames) -> torch.Tensor:
        pixels_TCHW = torch.from_numpy(frames_THWC.copy()).to(device).permute(0, 3, 1, 2)
        return pixels_TCHW.float() / 127.5 - 1

    distances = []
    # Without TF32, so that a score does not depend on the device that took it.
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for start in range(0, len(video_THWC), BATCH_FRAMES):
            batch = slice(start, start + BATCH_FRAMES)
            distance = model(to_input(video_THWC[batch]), to_input(reference_THWC[batch]))
            distances.append(distance.flatten().cpu().numpy())
    return np.concatenate(distances).astype(np.float64)


def unavailable_reason(size_HW: tuple[int, ...] | None = None) -> str | None:
    """Why LPIPS cannot be computed here (for frames of this size), in one sentence; else None."""
    if size_HW and min(size_HW) < MIN_SIDE_PX:
        return f"LPIPS needs frames of {MIN_SIDE_PX} pixels or more a side, these are {size_HW}"
    path, digest = _backbone_path(), backbone_sha256()
    if digest is None:
        return f"LPIPS needs {BACKBONE} in the folder {path.parent}, and it is not there"
    if not digest.startswith(SHA256_PREFIX):
        return (
            f"LPIPS needs {BACKBONE} with a SHA-256 that begins with {SHA256_PREFIX}, "
            f"and that of {path} begins with {digest[:8]}"
        )
    try:
        import lpips  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # a torchvision that does not fit torch
        return f"LPIPS needs the packages lpips and torchvision to import: {error}"
    return None


def backbone_sha256() -> str | None:
    """Hex SHA-256 of the AlexNet file found, whether right or wrong; None if there is none."""
    path = _backbone_path()
    if not path.is_file():
        return None
    stat = path.stat()
    return _sha256(path, stat.st_mtime_ns, stat.st_size)


def _backbone_path() -> Path:
    """Where torchvision would look for the AlexNet weights."""
    import torch

    return Path(torch.hub.get_dir(), "checkpoints", BACKBONE)


@functools.cache
def _sha256(path: Path, _mtime_ns: int, _size_bytes: int) -> str:
    """Digest of a file, taken again only when the file has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _model(device: str) -> Any:
    """The network, built once a device; only after the file was found, so nothing downloads."""
    import lpips
    import torch

    # Layers are filled at random before the weights are read: not from the sampler's stream.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision dislikes the argument names lpips uses
        return lpips.LPIPS(net="alex", version="0.1", verbose=False).to(device)
