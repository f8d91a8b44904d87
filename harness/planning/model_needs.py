"""Counts what a model needs in addition to the history: weights, activations and arithmetic.

No formulas: the code of network and decoder runs on the meta device, without values, and live
tensors are counted. The network is one layer deep, since activations do not depend on depth.
Workspaces inside kernels are not counted. Attention counts as a flash kernel, without a matrix of
logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harness.cache.layer import Plan
from harness.cache.positions import Turns, rotate
from harness.models.preset import DTYPES, VideoModel, in_dtype
from harness.planning.live_bytes import LiveBytes, on_meta
from harness.prompts.suite import pixel_frames
from harness.system.errors import UserError
from harness.system.notes import noted

SETTLED = 4  # latent frames, after which all further ones need the same memory to decode


@dataclass(frozen=True)
class Network:
    """Sizes of the transformer, in bytes, and its arithmetic.

    text_kv_bytes: cross-attention keys and values of one prompt, all layers.
    flops: linears, convolutions and cross-attention of one pass, without self-attention.
    pass_bytes: peak of one pass above weights, inputs, history and scratch.
    storing_from: the part of pass_bytes that is live while a layer stores the chunk.
    """

    weight_bytes: int
    text_kv_bytes: int
    flops: int
    pass_bytes: int
    storing_from: int

    def commit_bytes(self, storing_bytes: int) -> int:
        """Return the peak of the commit pass, in which a layer takes `storing_bytes` to store."""
        return max(self.pass_bytes, self.storing_from + storing_bytes)


@dataclass(frozen=True)
class Decoding:
    """Memory of a decoder in bytes, above weights and latents.

    streamed_bytes: peak if each frame is moved off the device once decoded.
    at_once_bytes: peak of one latent frame, if a single call decodes the whole video.
    kept: live between frames.
    pixel_bytes: one pixel frame in the decoder's dtype, and in fp32.
    """

    weight_bytes: int
    streamed_bytes: int
    at_once_bytes: int
    kept: int
    pixel_bytes: tuple[int, int]

    def whole_bytes(self, num_frames: int) -> int:
        """Return the peak in bytes of decoding `num_frames` latent frames by one call."""
        # The largest of three moments: the last frame is decoded while the video so far is held;
        # it is appended by a copy; (x / 2 + 1 / 2).clamp(0, 1) holds the fp32 video three times.
        own, wide = self.pixel_bytes
        num_pixels, before = pixel_frames(num_frames), pixel_frames(max(1, num_frames - 1))
        copied = self.kept + own * (num_pixels - before) + own * (before + num_pixels)
        return max(self.at_once_bytes + own * before, copied, 3 * wide * num_pixels)


@dataclass(frozen=True)
class Needs:
    """Memory that does not depend on the method. Unknown sizes are None; `reasons` says why."""

    network: Network
    text_bytes: int | None
    decoding: Decoding | None
    reasons: tuple[str, ...]

    @property
    def decoder_bytes(self) -> int | None:
        """Bytes of the decoder's weights; None if unknown."""
        return self.decoding.weight_bytes if self.decoding else None


class _Stand:
    """Stands in for a session without history: rotates, and returns a tensor of the right shape.

    live: if given, `stored_at` is the largest live size at the end of a layer's attention.
    """

    def __init__(self, live: LiveBytes | None = None) -> None:
        self.live, self.stored_at = live, 0

    def attend(self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Any) -> Any:
        turns = on_meta((q_BHTD.shape[2], q_BHTD.shape[3] // 2), torch.complex64)
        q, k = rotate(q_BHTD, turns), rotate(k_BHTD, turns)
        out = torch.empty_like(q)
        # Keys are stored after attention, when rotated queries and keys and the output are alive.
        if self.live is not None:
            self.stored_at = max(self.stored_at, self.live.now)
        del k
        return out


def network(model: VideoModel) -> Network:
    """Count the network of a model."""
    dtype = DTYPES[model.dtype]
    # All layers for the weights; one for the passes, which would repeat the same count.
    with torch.device("meta"):
        one_layer = replace(model.dims, num_layers=1).network(model.fps)
        whole = in_dtype(model.dims.network(model.fps), dtype)
    net = in_dtype(one_layer, dtype).eval().requires_grad_(False)
    text_shape = (1, cast(Any, model.text).length, model.dims.text_dim)
    with torch.inference_mode():
        kv = net.text_kv(on_meta(text_shape, dtype))
    # Networks with a clock read the frames of the plan; `_Stand` makes rotations of its own.
    frames = range(_pass_frames(model))
    plan = Plan(frames, "nothing", 0, Turns(on_meta((len(frames), 1), torch.complex64), None))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(*_inputs(model), kv, _Stand(), plan)
    inputs = _inputs(model)  # before counting begins, so that they are no activations
    with torch.inference_mode(), LiveBytes() as live:
        stand = _Stand(live)
        net(*inputs, kv, stand, plan)
    # The counted network has one block; all others do the same work.
    counts = counter.get_flop_counts()
    block: int = sum(counts[net.first_block].values())
    rest: int = counter.get_total_flops() - block
    layers = model.dims.num_layers
    # `kv` has the text's keys and values of one layer, and what all layers share.
    of_layer = sum(x.nbytes for pair in kv.layers for x in pair)
    return Network(
        weight_bytes=sum(x.nbytes for x in whole.state_dict().values()),
        text_kv_bytes=kv.nbytes + (layers - 1) * of_layer,
        flops=rest + layers * block,
        pass_bytes=live.peak,
        storing_from=stand.stored_at,
    )


def decoding(model: VideoModel) -> Decoding:
    """Count the decoder of a model.

    Raises  UserError: its packages are missing, or it cannot be run without values.
    """
    decoder: Any = model.decoder
    if not hasattr(decoder, "hollow"):
        raise UserError(f"{type(decoder).__name__} cannot say what it needs: give it hollow()")
    decoder = decoder.hollow()
    latents = on_meta(model.latent_shape(SETTLED), DTYPES[model.dtype])
    with torch.inference_mode(), LiveBytes() as live:
        steps, values = [], 0
        for frames_T3HW in decoder.stream(latents):
            steps.append(live.peak)
            values = frames_T3HW[0].numel()
            del frames_T3HW  # as a run does, which moves the frame off the device
            live.restart()
        # When the generator ends, its cache is freed. The last restart was before, so the peak
        # still has the bytes that are live between frames.
        kept = live.peak
    # A decoder without a dtype of its own works in fp32.
    own = getattr(torch, getattr(decoder, "dtype", "float32")).itemsize * values
    with torch.inference_mode(), LiveBytes() as live:
        decoder.decode_whole(latents)
    # The peak is in the last frame; the frames before it, still held, are subtracted.
    at_once = live.peak - own * pixel_frames(SETTLED - 1)
    return Decoding(decoder.nbytes, max(steps), at_once, kept, (own, 4 * values))


def needs(
    model: VideoModel,
    of_network: Callable[[VideoModel], Network] = network,
    of_decoder: Callable[[VideoModel], Decoding] = decoding,
) -> Needs:
    """Count network, text encoder and decoder of a model.

    of_network, of_decoder: count them, like `network` and `decoding`.
    """
    # A size that cannot be counted is unknown, and the rest of the plan is still worth printing.
    reasons = []
    try:
        decoder: Decoding | None = of_decoder(model)
    except UserError as error:
        decoder = None
        reasons.append(f"decode is unknown: {error}")
    text_bytes: int | None = getattr(model.text, "weight_bytes", None)
    if text_bytes is None:
        name = type(model.text).__name__
        reasons.append(f"text is unknown: {name} cannot say what it needs: give it weight_bytes")
    return Needs(of_network(model), text_bytes, decoder, tuple(reasons))


def remembered_needs(model: VideoModel) -> Needs:
    """Do what `needs` does; take what an earlier plan noted of the network and the decoder."""
    return needs(model, remembered_network, remembered_decoding)


def remembered_network(model: VideoModel) -> Network:
    """Return the sizes of a model's network; count it if no earlier plan did."""
    # On the meta device torch imports its compiler, which takes as long as the rest of a plan.
    kind = type(model.dims)
    if not _is_ours(kind):
        return network(model)
    shape = model.latent_shape(_pass_frames(model))
    length = cast(Any, model.text).length
    asked = [kind.__qualname__, asdict(model.dims), model.fps, length, shape, model.dtype]
    return Network(**noted("network", asked, lambda: asdict(network(model))))


def remembered_decoding(model: VideoModel) -> Decoding:
    """Return the memory of a model's decoder; count it if no earlier plan did.

    Raises  UserError: see `decoding`.
    """
    # Counting imports diffusers, the slowest part of a plan.
    kind = type(model.decoder)
    if not _is_ours(kind):
        return decoding(model)
    # As text, since not every setting is JSON. Names with an underscore are state, such as weights.
    settings = {name: str(x) for name, x in vars(model.decoder).items() if name[0] != "_"}
    asked = [kind.__qualname__, settings, model.latent_shape(SETTLED), model.dtype]
    known = noted("decoding", asked, lambda: asdict(decoding(model)))
    # JSON has no tuples.
    return Decoding(**{**known, "pixel_bytes": tuple(known["pixel_bytes"])})


def _is_ours(kind: type) -> bool:
    """Return whether the code version, which every note depends on, covers a class."""
    return kind.__module__.startswith("harness.")


def _pass_frames(model: VideoModel) -> int:
    """Return the latent frames of the longest pass."""
    return model.loop.pass_frames(model.schedule, model.chunk_frames)


def _inputs(model: VideoModel) -> tuple[Tensor, Tensor]:
    """Return latents and times of the longest pass, without values."""
    shape = (1, *model.latent_shape(_pass_frames(model)))
    return on_meta(shape, DTYPES[model.dtype]), on_meta(shape[:2], torch.float32)
