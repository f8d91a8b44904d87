"""Use models and methods from Python and generate videos without a results folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.api import Method, TokenPolicy
from harness.cache.attention.auto import Auto
from harness.cache.integration import CacheSession, Packed
from harness.cache.positions import Positions
from harness.checks.parts import demand_fit
from harness.config.compose import configured
from harness.downloads.data_folder import data_folder
from harness.models.preset import DTYPES, VideoModel
from harness.results.video_files import Frames
from harness.sampling.decoding import LatentBuffer
from harness.sampling.guidance import branches_of
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Generation
from harness.system.typed import build


@dataclass(frozen=True)
class SampledVideo:
    """One video, with the cache as it is after the last chunk.

    frames: [T, H, W, 3] uint8. latents: [F, C, h, w] in the model's dtype.
    session: the cache after the last commit; `session.ledger()` lists its bytes. With guidance,
    this is the cache of the first branch that stores a history.
    """

    frames: Frames
    latents: Tensor
    session: CacheSession


def load(*words: str) -> tuple[VideoModel, Method]:
    """Build the model and the method from settings of the command line.

    words: settings as typed, for example "method=softprune_int4" and "method.key.bits=8".
    Raises  UserError, InstantiationException: a setting or a class cannot be used.
    """
    config = configured(*words)
    # Only these two groups are built: `sample_video` always stores packed and chooses the backend.
    model: VideoModel = build("model", config["model"], VideoModel)
    method: Method = build("method", config["method"], Method)
    return model, method


def open_session(
    model: VideoModel,
    method: Method,
    num_frames: int,
    device: torch.device | None = None,
    positions: Positions | None = None,
) -> CacheSession:
    """Return an empty packed cache for one video of `num_frames` latent frames.

    positions: the network's positions; None for those of the Wan networks.

    Raises  ValueError, UserError: the method cannot serve the model or this length.
    """
    integration, device = Packed(), device or torch.device("cpu")
    demand_fit(model, method, integration, num_frames)
    backend = integration.resolve(Auto(), model.spec, method, device)
    num_held = model.loop.histories(num_frames)[0]
    return integration.session(model.spec, method, backend, num_held, device, positions)


def sample_video(  # noqa: PLR0913  one call for all that a video depends on
    model: VideoModel,
    method: Method,
    prompt: str,
    num_frames: int,
    seed: int = 0,
    device: torch.device | None = None,
    data_dir: str | None = None,
    prefix_FChw: Tensor | None = None,
) -> SampledVideo:
    """Generate one video, from the same noise as a run with this seed.

    num_frames: latent frames; 12 are 2.8 s of the small model. data_dir: folder of checkpoints.
    prefix_FChw: latents that the video begins with, for models that can continue a picture or a
        video (MAGI-1); they count in num_frames. Chunks that it gives whole are not in the result.
    Raises  ValueError, UserError: the parts do not fit, or a file is missing.
    """
    device = device or torch.device("cpu")
    sampler = replace(model.build(device, Path(data_folder(data_dir)[0])), reuse=method.reuse)
    positions = sampler.network.positions(model.spec.grid)
    # The negative prompt of guidance is a setting of the model; it is encoded with the prompt.
    wordings = {"prompt": prompt}
    if model.negative is not None:
        wordings["negative"] = model.negative
    encoded = model.text.encode(list(wordings.values())).to(DTYPES[model.dtype])
    # The encoder may be larger than the network. The decoder is loaded at the end.
    model.text.close()
    prefix = None if prefix_FChw is None else prefix_FChw[None]
    # Only whole chunks count: the rest of a prefix is denoised again with the chunk it begins.
    given = 0 if prefix is None else prefix.shape[1] // model.chunk_frames
    retention = method.retention
    if given and isinstance(retention, TokenPolicy) and retention.trigger == "new_chunk":
        raise ValueError(
            f"{type(retention).__name__}.trigger=new_chunk with a prefix of {given} whole chunks "
            "has no counterpart: FlowCache's code fails at its first cut then; choose a prefix "
            f"below {model.chunk_frames} frames, or another trigger"
        )
    branches = branches_of(
        model.roles,
        model.texts(sampler, dict(zip(wordings, encoded, strict=True)), num_frames, given),
        lambda: open_session(model, method, num_frames, device, positions),
    )
    noise = SeededNoise(seed, model.latent_shape(num_frames))
    buffer, chunks = LatentBuffer(model.decoder, NullObserver()), []
    video = Generation(branches, noise, num_frames, NullObserver(), buffer, prefix)
    for latents in sampler.run(video):
        buffer.latents.append(latents)
        chunks.append(latents[0])
    with torch.inference_mode():
        frames = buffer.end(lambda latents: np.concatenate(list(model.decoder.decode(latents))))
    # Branches that share a cache, or have none, come with no history of their own.
    own = next(
        branch.session
        for role, branch in zip(model.roles, branches, strict=True)
        if role.cache == "own"
    )
    return SampledVideo(frames, torch.cat(chunks), own)
