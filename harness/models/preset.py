"""A base model as configured: preset, weights, text encoder and decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.traffic import Arithmetic
from harness.models.checkpoints.bundled import bundled
from harness.models.checkpoints.load import MixedDtypes, checkpoint_sha256, load_weights
from harness.models.checkpoints.locate import located
from harness.models.checkpoints.lora import Lora
from harness.models.magi import MagiDims
from harness.models.network import VideoNetwork
from harness.models.prompts import MagiPrompts, PlainPrompts, Prompts
from harness.models.wan import Wan, WanDims
from harness.sampling.decoding import Decoder
from harness.sampling.guidance import Guided, Role, SwitchedText, Texts, roles_of, running_branches
from harness.sampling.loop import Loop
from harness.sampling.network import TextKV
from harness.sampling.passes import Pass, with_recache
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import NoiseSchedule
from harness.system.errors import UserError

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


# A protocol and not a base class: users' encoders need not import anything of the harness.
class TextEncoder(Protocol):
    """Protocol of text encoders, which turn prompts into the network's text rows."""

    def locate(self, root: Path) -> None:
        """Look for files below `root`."""

    def to(self, device: torch.device) -> None:
        """Encode on this device."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return rows [B, length, width] fp32 on the CPU; padding rows are zero."""

    def is_full(self, rows_TE: Tensor) -> bool:
        """Return whether a prompt fills all rows, so that its last words may have been ignored."""

    def close(self) -> None:
        """Free the loaded encoder."""


@runtime_checkable
class Recorded(Protocol):
    """Protocol of text encoders that may read encoded prompts from a file."""

    def recorded(self) -> str | None:
        """Return the file and its SHA-256, or None if it encodes prompts itself."""


@dataclass(frozen=True)
class VideoModel:
    """The preset of a base model, one file of `conf/model/`.

    latent_size: height and width of latents, both even.
    chunk_frames: latent frames per chunk.
    fps: pixel frames per second.
    dtype: dtype of the network: bfloat16, float32 or float16.
    weights: where the weights come from.
        `bundled`: the file `checkpoint` that ships with the package, with digest `sha256`.
        `checkpoint`: the file `checkpoint`, relative to the data folder.
        `seeded`: untrained weights from `seed`, for small networks.
        `random`: true sizes with meaningless values, for systems measurements; quality stays null.
    checkpoint: path, or `hf://owner/name/path`.
    sha256: expected checksum of the checkpoint, or null.
    source: "owner/name path/in/repo"; the hub's cache is searched for it if `checkpoint` is absent.
    ema: use the EMA weights of a file that has two sets.
    window, sink: latent frames; window=null attends to the full history.
    positions, keys, sink_rate: as in `CacheSpec`.
    short_tail: let the last group of tokens be shorter if groups do not divide a frame.
    lora, lora_source, lora_scale: an adapter file, its source, and alpha / rank.
    loop: order of the passes.
    trained_frames: length in latent frames of the videos that the weights were trained on; null if
        unknown. Runs with later positions report this.
    guidance: runs every pass in several branches and combines them; null runs it once.
    prompts: turns a prompt into the texts of the passes; one text for all by default.

    Raises  ValueError: an unknown word; weights without their file or digest; a window that cannot
            hold the sink and one chunk; other values that do not fit together.
    """

    dims: WanDims | MagiDims
    schedule: NoiseSchedule
    text: TextEncoder
    decoder: Decoder
    latent_size: tuple[int, int]
    chunk_frames: int
    fps: int
    dtype: str
    weights: Literal["bundled", "checkpoint", "seeded", "random"]
    checkpoint: str | None = None
    sha256: str | None = None
    source: str | None = None
    ema: bool = False
    window: int | None = None
    sink: int = 0
    positions: Literal["absolute", "relative", "anchored"] = "absolute"
    keys: Literal["roped", "pre_rope"] = "roped"
    short_tail: bool = False
    seed: int = 0
    lora: str | None = None
    lora_source: str | None = None
    lora_scale: float = 1.0
    sink_rate: float = 0.0
    loop: Loop = field(default_factory=Loop)
    trained_frames: int | None = None
    guidance: Guided | None = None
    prompts: Prompts = field(default_factory=PlainPrompts)

    def __post_init__(self) -> None:
        # Presets are users' files: everything that does not fit is refused here, before weights are
        # read, with the name of the setting.
        choices = {
            "weights": ("bundled", "checkpoint", "seeded", "random"),
            "dtype": tuple(DTYPES),
            "positions": ("absolute", "relative", "anchored"),
            "keys": ("roped", "pre_rope"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name}={getattr(self, name)}: choose {', '.join(allowed)}")
        if self.weights in ("bundled", "checkpoint") and self.checkpoint is None:
            raise ValueError(f"model.weights={self.weights} needs model.checkpoint=<file>")
        # A file that ships is verified in every call, so its digest must be known.
        if self.weights == "bundled" and self.sha256 is None:
            raise ValueError("model.weights=bundled needs model.sha256=<digest of the file>")
        # A patch covers 2 x 2 latents.
        sides = list(self.latent_size)
        if len(sides) != 2 or not all(type(n) is int and n > 0 and n % 2 == 0 for n in sides):
            raise ValueError(f"model.latent_size={sides}: give two positive even numbers")
        trained = self.trained_frames
        if trained is not None and not (type(trained) is int and trained > 0):
            raise ValueError(f"model.trained_frames={trained}: give 1 or more frames, or null")
        if self.sink < 0:
            raise ValueError(f"model.sink={self.sink}: give 0 or more frames")
        if self.window is not None and self.window < self.sink + self.chunk_frames:
            raise ValueError(
                f"model.window={self.window} cannot hold a sink of {self.sink} and a chunk of "
                f"{self.chunk_frames}: choose at least {self.sink + self.chunk_frames}"
            )
        self._check_sink()
        self.loop.check_model(self.schedule, self.window, self.chunk_frames)
        # The network of MAGI-1 reads a part of its condition from the text (`TextKV.condition`).
        is_magi = isinstance(self.dims, MagiDims)
        if is_magi != isinstance(self.prompts, MagiPrompts):
            raise ValueError(
                f"model.prompts={type(self.prompts).__name__} does not serve the network of "
                f"{type(self.dims).__name__}: MagiDims and harness.models.MagiPrompts go together"
            )

    def _check_sink(self) -> None:
        """Check that sink and window fit `sink_rate` and anchored positions."""
        if not 0 <= self.sink_rate < 1:
            raise ValueError(f"model.sink_rate={self.sink_rate}: give a share, 0 or more, below 1")
        window = self.window or 0
        # Frames leave a chunk at a time, and each is mixed into its own frame of the sink.
        if self.sink_rate and (self.sink != self.chunk_frames or window % self.chunk_frames):
            raise ValueError(
                f"model.sink_rate={self.sink_rate:g} mixes a chunk that leaves into a sink of as "
                f"many frames, found sink={self.sink} window={self.window}: choose a sink of "
                f"{self.chunk_frames} and a window that is a multiple of it"
            )
        # Rotated keys of different frames cannot be averaged: each has its own angle.
        if self.sink_rate and (self.keys, self.positions) != ("pre_rope", "relative"):
            raise ValueError(
                f"model.sink_rate={self.sink_rate:g} mixes keys without positions: choose "
                "model.keys=pre_rope model.positions=relative"
            )
        # A denoising pass sees at most window - sink frames, in which the sink and the frames of
        # the pass itself must fit.
        wanted = 2 * self.sink + self.loop.pass_frames(self.schedule, self.chunk_frames)
        if self.positions == "anchored" and (not self.sink or window < wanted):
            raise ValueError(
                f"model.positions=anchored needs a sink and a window of twice the sink and a "
                f"pass, found sink={self.sink} window={self.window}: choose a sink of 1 or more "
                f"and a window of at least {wanted}"
            )

    @property
    def spec(self) -> CacheSpec:
        """Return the geometry that methods see."""
        return CacheSpec(
            num_layers=self.dims.num_layers,
            num_heads=self.dims.num_heads,
            head_dim=self.dims.head_dim,
            num_kv_heads=self.dims.num_kv_heads,
            grid=(self.latent_size[0] // 2, self.latent_size[1] // 2),
            chunk_frames=self.chunk_frames,
            window=self.window,
            sink=self.sink,
            positions=self.positions,
            keys=self.keys,
            sink_rate=self.sink_rate,
            under_way=self.loop.under_way(self.schedule, self.chunk_frames),
        )

    @property
    def roles(self) -> tuple[Role, ...]:
        """Return the roles of the branches of a pass."""
        return roles_of(self.guidance)

    def roles_of(self, each: Pass) -> list[Role]:
        """Return the roles of the branches in which a pass runs, if no policy skips it."""
        # Only the first chunk of the video may have steps of its own, not those of later histories.
        times = self.schedule.times(each.history == 0 and each.frames.start == 0)
        time = self.schedule.clean_time if each.step is None else times[each.step]
        return [self.roles[number] for number in running_branches(self.guidance, each, time)]

    @property
    def num_histories(self) -> int:
        """Return the number of branches that store a history of their own."""
        # A branch that shares a history or has none takes no memory for one, so BF16 bytes of a
        # video are counted for these alone.
        return sum(role.cache == "own" for role in self.roles)

    def flops(self, work: Arithmetic) -> float:
        """Return the FLOPs of the blocks for counted work; a multiply-add is two.

        Embeddings, head, text encoder and decoder are not counted, nor what the method itself
        computes (encoding, decoding, choosing tokens).
        """
        # Arithmetic of the cache has counted tokens and pairs of the passes that ran, so a skipped
        # pass costs nothing here and a limited view costs less.
        dims = self.dims
        pair = 4 * dims.num_heads * dims.head_dim  # two products, q k and weights v
        return 2.0 * dims.token_weights * work.tokens + pair * (work.pairs + work.text_pairs)

    @property
    def first_pixel_frames(self) -> int:
        """Return the pixel frames of the first latent frame."""
        # A setting of the decoder, so that the length of a video is known without its weights.
        return getattr(self.decoder, "first_pixel_frames", 1)

    @property
    def contract(self) -> str:
        """Return the reach of attention, `window<frames>` or `full`; tables never mix reaches."""
        return "full" if self.window is None else f"window{self.window}"

    @property
    def preset(self) -> str:
        """Return the whole preset in one line, which is printed with every result."""
        # Settings of few models come last and only where they are set: rows of one preset keep
        # their text when a new setting is added.
        return (
            f"window={self.window or 'full'} sink={self.sink} chunk={self.chunk_frames} "
            f"{self.schedule.preset} ema={self.ema} positions={self.positions} "
            f"keys={self.keys} dtype={self.dtype}"
            f"{f' sink_rate={self.sink_rate:g}' if self.sink_rate else ''}"
            f"{'' if self.loop == Loop() else f' loop={self.loop}'}"
            f"{f' guidance={self.guidance.preset}' if self.guidance else ''}"
        )

    def build(self, device: torch.device, data_dir: Path) -> Sampler:
        """Build the network with its weights on a device, and return its sampler.

        Raises  UserError: the checkpoint is missing or does not fit.
        """
        dtype = DTYPES[self.dtype]
        # Parts of a preset hold relative paths, because run ids must not depend on the data folder.
        self.text.locate(data_dir)
        self.decoder.locate(data_dir)
        self.prompts.locate(data_dir)
        network: VideoNetwork
        # Seeded weights are drawn on the CPU, so that every device has the same network; `random`
        # ones, whose values mean nothing, where they are needed.
        if self.weights == "seeded":
            network = in_dtype(self.dims.seeded(self.fps, self.seed), dtype).to(device)
        else:
            # Build on the meta device, without memory: every weight is replaced below.
            with torch.device("meta"):
                network = self.dims.network(self.fps)
            if self.weights == "random":
                in_dtype(network, dtype).to_empty(device=device)
                # A small deviation, so that no pass overflows.
                generator = torch.Generator(device).manual_seed(self.seed)
                with torch.no_grad():
                    for tensor in network.state_dict().values():
                        tensor.normal_(0, 0.02, generator=generator)
            else:
                load_weights(
                    network,
                    self.path(data_dir),
                    ema=self.ema,
                    dtype=dtype,
                    device=device,
                    source=self.source,
                    lora=self.adapter(data_dir),
                )
        # Without gradients, so that no pass keeps activations.
        network.eval().requires_grad_(False)
        return Sampler(
            network, self.schedule, self.chunk_frames, loop=self.loop, guidance=self.guidance
        )

    def texts(
        self,
        sampler: Sampler,
        rows: Mapping[str, Tensor],
        num_frames: int,
        given: int = 0,
        later: Mapping[int, Tensor] | None = None,
    ) -> dict[str, Texts]:
        """Return the texts that the branches read, by name; called once per video.

        rows: encoded prompt [T, E], and the encoded `negative` if it is a text.
        num_frames: latent frames of the video.
        given: whole chunks that a prefix gives.
        later: encoded prompts that replace the first one, by the first frame that reads them.
        """
        network, names = sampler.network, {role.text for role in self.roles}
        num_chunks = -(-num_frames // self.chunk_frames)
        found = self.prompts.texts(network, names, rows, num_chunks, given)
        # All texts are held to the end of the video. The negative one stays the same.
        if later:
            texts = [found["prompt"]]
            for rows_TE in later.values():
                new = self.prompts.texts(
                    network, ["prompt"], {"prompt": rows_TE}, num_chunks, given
                )
                texts.append(new["prompt"])
            # New prompts begin with a chunk, so the division is exact.
            starts = [0, *(frame // self.chunk_frames for frame in later)]
            found["prompt"] = SwitchedText(starts, texts)
        return found

    def passes(self, num_frames: int, recached: Sequence[int] = ()) -> Iterator[Pass]:
        """Yield the passes of a video in order; a reuse policy may skip some of them.

        num_frames: latent frames.
        recached: first frames of the chunks before which the history is stored again.
        """
        passes = self.loop.passes(self.schedule, num_frames, self.chunk_frames)
        return with_recache(passes, recached, self.spec)

    @property
    def negative(self) -> str | None:
        """Return the text without the prompt that has to be encoded, if a branch reads one."""
        return None if self.guidance is None else self.guidance.negative

    def text_kv(self, sampler: Sampler, rows_TE: Tensor) -> TextKV:
        """Return the cross-attention keys and values of a prompt's rows [T, E]."""
        network = sampler.network
        with torch.inference_mode():
            return network.text_kv(rows_TE[None].to(network.device, network.dtype))

    def latent_shape(self, num_frames: int) -> tuple[int, int, int, int]:
        """Return the shape [F, C, h, w] of the latents of a video."""
        return (num_frames, self.dims.latent_channels, *self.latent_size)

    def origin(self, data_dir: Path) -> str:
        """Return the files of the weights and their SHA-256, as recorded with every row.

        Raises  UserError: a file is missing, or its checksum differs from the configuration.
        """
        # Without trained weights there is no file; the seed is part of the preset.
        if self.weights in ("seeded", "random"):
            parts: list[str] = [self.weights]
        elif self.weights == "bundled":
            parts = [f"{self.checkpoint} {str(self.sha256)[:16]}"]
        else:
            # Of all bytes: rows may only be compared if they come from the same weights.
            path = self.path(data_dir)
            found = checkpoint_sha256(path)
            if self.sha256 not in (None, found):
                raise UserError(
                    f"{path} has SHA-256 {found}, expected {self.sha256}: download it again, or "
                    "set model.sha256 to that of what you have"
                )
            parts = [f"{self.checkpoint} {found}"]
            adapter = self.adapter(data_dir)
            if adapter is not None:
                parts.append(f"{self.lora} {checkpoint_sha256(adapter.path)}")
        # Rows of another file of encoded prompts are another experiment, like other weights.
        rows = self.text.recorded() if isinstance(self.text, Recorded) else None
        return " + ".join([*parts, rows] if rows else parts)

    def path(self, data_dir: Path) -> Path:
        """Return the path of the weights; a bundled file is verified in every call."""
        if self.weights == "bundled":
            return bundled(str(self.checkpoint), str(self.sha256))
        return located(data_dir, str(self.checkpoint), self.source)

    def adapter(self, data_dir: Path) -> Lora | None:
        """Return the adapter that is added to the weights, or None."""
        if self.lora is None:
            return None
        # The scale is a setting, because adapter files do not contain it.
        place = located(data_dir, self.lora, self.lora_source)
        return Lora(place, self.lora_scale, self.lora_source)


def in_dtype(network: VideoNetwork, dtype: torch.dtype) -> VideoNetwork:
    """Convert the weights to a dtype, except for those that the network keeps in fp32."""
    # By `data`: the parameters stay the same objects, with their names in the network.
    kept = network.fp32_weights if isinstance(network, MixedDtypes) else set()
    for name, parameter in network.named_parameters():
        if name not in kept:
            parameter.data = parameter.data.to(dtype)
    return network


def wan_of(model: VideoModel) -> Wan:
    """Build the network of a model of the Wan kind; its weights come later.

    Raises  ValueError: the model has another network.
    """
    if not isinstance(model.dims, WanDims):
        raise ValueError("the small models have the network of Wan: give model.dims of WanDims")
    return model.dims.network(model.fps)
