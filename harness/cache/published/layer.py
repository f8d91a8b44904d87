"""One layer of the published integration: decode, write the chunk, decide, encode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.api import (
    DROP,
    KEEP,
    POOL,
    CacheSpec,
    FramePolicy,
    History,
    Method,
    Placement,
    Split,
    Tier,
)
from harness.cache.layer import demand_known
from harness.cache.published.count import Count, pages_bytes, pooled_bytes
from harness.cache.published.layout import Layout, layout, places
from harness.cache.published.program import Program
from harness.cache.published.side import Side


@dataclass
class Layer:
    """Keys and values of one layer of one video of `capacity` frames.

    program: the study's program to imitate.
    placements: placement of each stored frame, dropped and pooled ones included.
    notes: the policy's notes at its last decision, by frame.
    """

    program: Program
    method: Method
    policy: FramePolicy
    spec: CacheSpec
    capacity: int
    layer: int
    key: Side = field(init=False)
    value: Side = field(init=False)
    placements: dict[int, Placement] = field(default_factory=dict)
    notes: dict[int, Tensor] = field(default_factory=dict)
    end: int = 0  # frames of the video so far
    _shown: int = 0  # number of frames in the policy's last history
    _layout: Layout | None = None
    _lists: list[tuple[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        wide = getattr(torch, self.program.codes)
        tiers = {KEEP: Tier(self.method.key, self.method.value), **self.method.tiers}
        beside = self.program.beside
        # Keys and values are encoded apart, and each may have another quantizer in a tier.
        self.key = Side({name: tier.key for name, tier in tiers.items()}, wide, beside)
        self.value = Side({name: tier.value for name, tier in tiers.items()}, wide, beside)

    def step(
        self, k_BHTD: Tensor, v_BHTD: Tensor, frames: range, commit: bool
    ) -> tuple[Tensor, Tensor]:
        """Run one pass; return the keys and values [B, H, N, D] of the capacity for its attention.

        N counts the tokens of the whole capacity, frames still to come included.

        k, v: keys (roped) and values of the chunk `frames`; the result holds them exactly.
        """
        keys, values = self.read(k_BHTD, v_BHTD)
        size = self.spec.tokens_per_frame
        chunk = slice(frames.start * size, frames.stop * size)
        # This pass reads its own chunk exactly; later passes read it decoded.
        keys[:, :, chunk], values[:, :, chunk] = k_BHTD, v_BHTD
        self.end = max(self.end, frames.stop)
        # As in the study, all of the cache is encoded again, old frames included: at every pass, or
        # only in the commit pass.
        if commit or self.program.cadence == "pass":
            placements = self._decide(*(x.unflatten(2, (-1, size)) for x in (keys, values)))
            self.place(placements, keys.device)
            self.write(keys, values)
        return keys, values

    def read(self, k_BHTD: Tensor, v_BHTD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of the whole capacity [B, H, N, D] in the dtype of k and v."""
        num_tokens = self.capacity * self.spec.tokens_per_frame
        sides = ((self.key, k_BHTD), (self.value, v_BHTD))
        keys, values = (side.read(like, num_tokens, self._layout) for side, like in sides)
        return keys, values

    def place(self, placements: Mapping[int, Placement], device: torch.device) -> None:
        """Apply placements; frames without one stay where they are, new ones go to KEEP."""
        stored = self.capacity if self.program.extent == "capacity" else self.end
        # The usual case of a policy that moves nothing: places and layout stay as they are.
        if not placements and len(self.placements) == stored:
            return
        self.placements = {
            f: placements.get(f, self.placements.get(f, KEEP)) for f in range(stored)
        }
        tiers = places(self.placements, self.spec.tokens_per_frame, device)
        self._layout = layout(self.placements, tiers, self.spec.tokens_per_frame)
        # Keep the lists of token places that the study's program kept: their bytes count.
        self._lists = []
        if self.method.tiers and self.program.places != "none":
            self._lists += [("index", tokens) for tokens in tiers.values()]
        if self.method.tiers and self.program.places == "mask":
            num_tokens = self.capacity * self.spec.tokens_per_frame
            mask = torch.zeros(num_tokens, dtype=torch.bool)
            for name, tokens in tiers.items():
                mask = mask.to(tokens.device).index_fill_(0, tokens, name != KEEP)
            self._lists.append(("mask", mask))

    def write(self, keys_BHND: Tensor, values_BHND: Tensor) -> None:
        """Encode the stored frames of the capacity [B, H, N, D]."""
        assert self._layout is not None
        self.key.write(keys_BHND, self._layout)
        self.value.write(values_BHND, self._layout)

    def _decide(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Mapping[int, Placement]:
        """Let the policy observe every frame again, as it is decoded now, and decide."""
        stop = self.capacity if self.program.history == "capacity" else self.end
        # The policy does not see again what it has dropped or pooled.
        out = () if self.program.compete else (DROP, POOL)
        seen = [f for f in range(stop) if self.placements.get(f) not in out]
        # One frame at a time: all that is seen at once would be another copy of the decoded cache.
        written = (
            self.policy.observe(*(x[:, :, f, None] for x in (k_BHFTD, v_BHFTD))) for f in seen
        )
        notes = {f: note[0] for f, note in zip(seen, written, strict=True) if note is not None}
        # `tiers` leaves out frames that are new since the last decision, as packed storage does.
        history = History(
            frames=seen,
            num_frames=stop,
            notes=notes,
            noisy_notes=self.notes,
            tiers={f: placement for f, placement in self.placements.items() if f < self._shown},
            capacity=self.capacity,
            layer=self.layer,
            num_layers=self.spec.num_layers,
        )
        placements = self.policy.decide(history)
        demand_known(placements, seen, (KEEP, *self.method.tiers))
        # A policy that decides nothing keeps the notes of its last decision.
        if placements:
            self.notes = dict(history.notes)
        self._shown = stop
        return placements

    @property
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors that stay allocated between passes, by component."""
        yield from self.key.tensors
        yield from self.value.tensors
        yield from self._lists
        spans = self._layout.spans if self._layout is not None else {}
        yield from (("places", span) for span in spans.values() if isinstance(span, Tensor))
        yield from (("places", x.tokens) for x in self.placements.values() if isinstance(x, Split))
        yield from (("notes", note) for note in self.notes.values())

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the stored frames without metadata, at the nominal bits per value."""
        total = 0
        for side in (self.key, self.value):
            total += sum(page.packed.nominal_bytes for page in side.pages.values())
            total += side.means.nbytes if side.means is not None else 0
            total += self._exact_bytes(side)
        return total

    @property
    def count(self) -> Count:
        """Bytes as the study counted them."""
        pooled = 0 if self._layout is None else len(self._layout.pooled)
        sides = (self.key, self.value)
        return Count(
            pages=sum(pages_bytes(x.pages.values()) + self._exact_bytes(x) for x in sides),
            index=sum(x.nbytes for name, x in self._lists if name == "index"),
            mask=sum(x.nbytes for name, x in self._lists if name == "mask"),
            pooled=pooled_bytes([side.means for side in sides], pooled),
        )

    def _exact_bytes(self, side: Side) -> int:
        """Return the bytes of tokens that lie in the exact buffer and have no page."""
        if side.buffer is None or self._layout is None:
            return 0
        spans = self._layout.spans.items()
        return sum(side.buffer[:, :, x].nbytes for name, x in spans if name not in side.pages)
