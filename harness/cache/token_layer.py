"""The history of one layer under a token policy: one page of tokens from different frames."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import Packed, TokenPolicy, Tokens, rows_at
from harness.cache.attention.base import Segment
from harness.cache.layer import HIDDEN, Chunk, Context, Plan
from harness.cache.pages import Pages
from harness.cache.positions import Table


@dataclass
class StoredTokens:
    """Stored tokens of one layer.

    key, value: one page each [B, H, 1, N, ...].
    origin: frame * tokens per frame + place in the frame, of each token [B, H, N] int32.
    count: number of original tokens that each token stands for [B, H, N] fp32; None if always 1.
    note: the policy's own numbers [B, H, N] fp32; None if it has none.
    """

    key: Packed
    value: Packed
    origin: Tensor
    count: Tensor | None
    note: Tensor | None

    @property
    def counts(self) -> Tensor:
        """Number of original tokens that each token stands for [B, H, N] fp32."""
        # Not stored if all are 1: a number per token and head would be memory of the method.
        return self._filled(1) if self.count is None else self.count

    @property
    def notes(self) -> Tensor:
        """The policy's own number for each token [B, H, N] fp32; 0 if it has none."""
        return self._filled(0) if self.note is None else self.note

    def select(self, index_BHK: Tensor) -> StoredTokens:
        """Return some tokens [B, H, K], without decoding them."""
        rest = (None if x is None else x.gather(2, index_BHK) for x in (self.count, self.note))
        key, value = select_tokens(self.key, index_BHK), select_tokens(self.value, index_BHK)
        return StoredTokens(key, value, self.origin.gather(2, index_BHK), *rest)

    def _filled(self, number: float) -> Tensor:
        """Return the same number for every token [B, H, N] fp32."""
        return torch.full_like(self.origin, number, dtype=torch.float32)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by component."""
        held = Counter({name: part.nbytes for name, part in self.key.parts.items()})
        held.update({name: part.nbytes for name, part in self.value.parts.items()})
        held["origin"] = self.origin.nbytes
        held["counts"] = 0 if self.count is None else self.count.nbytes
        held["notes"] = 0 if self.note is None else self.note.nbytes
        return held


@dataclass
class TokenLayer:
    """Stores the tokens that a `TokenPolicy` chooses, head by head.

    A token is encoded once. Tokens that stay are moved in encoded form.

    held: the stored tokens; None before the first chunk.
    first: first frame of the window; the sink stays stored before it.
    is_uncut: whether a chunk has joined since a policy with another trigger than `commit` chose.
    newest: for trigger=new_chunk, queries of the newest pass, its first frame and its shift.
    """

    context: Context
    policy: TokenPolicy
    layer: int
    held: StoredTokens | None = None
    first: int = 0
    is_uncut: bool = False
    newest: tuple[Tensor, int, int] | None = None

    def prepare(self, query_BHTD: Tensor, plan: Plan) -> None:
        """Let a policy with trigger=next_pass choose tokens by the queries of the next pass."""
        if self.policy.trigger == "next_pass":
            self._revise_history(query_BHTD, plan.frames.start, plan.shift)

    def make_room(self) -> None:
        """Let a policy with trigger=new_chunk choose tokens by the queries of the newest pass."""
        if self.policy.trigger == "new_chunk" and self.newest is not None:
            self._revise_history(*self.newest)

    def _revise_history(self, query_BHTD: Tensor, start: int, shift: int) -> None:
        """Let the policy choose among the stored tokens, without a new chunk.

        start, shift: first frame of the pass that the queries are from, and its `Plan.shift`.
        """
        # Once per chunk, in the first pass that is not skipped: choosing decodes and copies the
        # whole history.
        if self.held is not None and self.is_uncut:
            self.is_uncut = False
            self._revise(self.held, self._tokens(self.held, query_BHTD, start, shift))

    def segments(self, plan: Plan) -> list[Segment]:
        """Return all stored tokens as one page, with a bias that hides those out of reach."""
        held, method = self.held, self.context.method
        if held is None:
            return []
        frame, place = self._frame_and_place(held.origin)
        times = self.policy.times(frame, plan.frames.start)
        turns = self._turns(times, frame, place, plan.shift)
        pages, bias = Pages(held.key, held.value, (0,)), self._bias(held.count, times)
        # Tokens of all frames share one page, so unseen ones are decoded and hidden.
        if plan.sees is not None:
            shown = torch.tensor([plan.shows(f) for f in range(self.context.num_frames)])
            unseen = ~shown.to(frame.device)[frame]
            bias = torch.zeros_like(frame, dtype=torch.float32) if bias is None else bias
            bias = bias.masked_fill(unseen, HIDDEN)
        return [Segment(pages, method.key, method.value, turns, bias=bias)]

    def observe_noisy(self, chunk: Chunk, plan: Plan) -> None:
        """Keep the queries of the pass for a policy with trigger=new_chunk."""
        if self.policy.trigger == "new_chunk" and chunk.rotated_query.shape[2]:
            query = chunk.rotated_query
            first = query.shape[2] - self.policy.num_queries(self.context.spec)
            # The newest queries come last. A copy: a view would keep those of the whole chunk.
            self.newest = query[:, :, first:].clone(), plan.frames.start, plan.shift

    def commit(self, chunk: Chunk, plan: Plan) -> None:
        """Encode the chunk, show history and chunk to the policy, and store the tokens it chooses.

        A policy with another trigger than `commit` chooses later: the chunk is stored whole.
        """
        self.observe_noisy(chunk, plan)  # the newest pass before the next chunk may be this one
        k = self.context.roped_keys(chunk, plan) if self.context.roped else chunk.key
        # Evict before the chunk is encoded, so that both are never allocated together.
        self._evict_unreachable(plan)
        # [:, :, None] adds the dimension of pages: all tokens of a layer lie in one.
        key = self.context.encode(self.context.method.key, k[:, :, None])
        value = self.context.encode(self.context.method.value, chunk.value[:, :, None])
        first = plan.frames.start * self.context.spec.tokens_per_frame
        origin = torch.arange(k.shape[2], dtype=torch.int32, device=k.device) + first
        both = _join(self.held, StoredTokens(key, value, origin.expand(k.shape[:3]), None, None))
        if self.policy.trigger != "commit":
            kept = self.held
            # `_join` fills in counts and notes: keep only those that the policy has.
            count = both.count if self.policy.rewrites else None
            note = both.note if kept is not None and kept.note is not None else None
            self.keep(replace(both, count=count, note=note))
            self.is_uncut = True
        else:
            new = k, chunk.value, chunk.rotated_key
            start, shift = plan.frames.start, plan.shift
            self._revise(both, self._tokens(both, chunk.rotated_query, start, shift, new))

    def _revise(self, both: StoredTokens, tokens: Tokens) -> None:
        """Ask the policy which of the tokens in `both` stay, and store those."""
        method, context = self.context.method, self.context
        revision = self.policy.revise(tokens)
        index = revision.index
        # Only policies that merge tokens return keys and values. They need exact storage, so
        # encoding again loses no precision.
        if revision.key is not None and revision.value is not None:
            key = context.encode(method.key, revision.key[:, :, None])
            value = context.encode(method.value, revision.value[:, :, None])
        else:
            key, value = select_tokens(both.key, index), select_tokens(both.value, index)
        origin = both.origin.gather(2, index)
        # A policy may move a merged token to another frame; its place in the frame stays.
        if revision.frame is not None:
            per_frame = context.spec.tokens_per_frame
            origin = (revision.frame * per_frame + origin % per_frame).int()
        # Only merged tokens stand for several.
        count = None
        if self.policy.rewrites:
            count = both.counts.gather(2, index) if revision.count is None else revision.count
        self.keep(StoredTokens(key, value, origin, count, revision.note))

    def keep(self, held: StoredTokens) -> None:
        """Replace the stored tokens."""
        # `BufferLayer` puts them into its buffers here.
        self.held = held

    def _evict_unreachable(self, plan: Plan) -> None:
        """Evict tokens that have left the model's window, the same number in every head."""
        held, sink = self.held, self.context.spec.sink
        if held is None or self.first <= sink:
            return
        times = self.policy.times(self._frame_and_place(held.origin)[0], plan.frames.start)
        gone = (times >= sink) & (times < self.first)
        # All heads share one tensor, so each must lose the same number of tokens. A head with more
        # tokens out of reach keeps the rest, and `_bias` hides them.
        num_gone = int(gone.sum(2).min())
        kept = ~(gone & (gone.cumsum(2) <= num_gone))
        # A stable sort moves the tokens that stay to the front without changing their order.
        index = kept.int().argsort(dim=2, descending=True, stable=True)
        self.held = held.select(index[:, :, : held.origin.shape[2] - num_gone])

    def evict(self, first: int) -> None:
        """Hide tokens after the model's sink and before `first`; the next commit evicts them."""
        self.first = first

    def renew(self, frames: range) -> None:
        """Free all tokens; the next passes store the frames again."""
        # Free all of them: tokens of older frames leave with the next chunk in any case. Heads hold
        # different tokens, so those of a sink could not stay.
        assert self.context.spec.sink == 0, "checks refuse recaching of single tokens with a sink"
        self.held, self.is_uncut = None, False

    @property
    def ledger(self) -> Counter[str]:
        """Bytes of keys, values, origins, counts, notes and kept queries."""
        found = Counter(self.held.sizes if self.held else {})
        found["queries"] = 0 if self.newest is None else self.newest[0].nbytes
        return found

    @property
    def nominal_bytes(self) -> int:
        """Bytes of keys and values without metadata, at the nominal bits per value."""
        held = self.held
        return 0 if held is None else held.key.nominal_bytes + held.value.nominal_bytes

    @property
    def num_frames_held(self) -> float:
        """Number of stored tokens, in frames."""
        if self.held is None:
            return 0.0
        return self.held.origin.shape[2] / self.context.spec.tokens_per_frame

    def stored(self) -> tuple[list[int], Tensor, Tensor]:
        """Return all tokens as frame 0, decoded [B, H, 1, N, D] fp32; they form no whole frames."""
        assert self.held is not None
        method = self.context.method
        key, value = self.held.key, self.held.value
        return [0], method.key.decode(key, torch.float32), method.value.decode(value, torch.float32)

    def _tokens(
        self,
        both: StoredTokens,
        query_BHTD: Tensor,
        start: int,
        shift: int,
        new: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tokens:
        """Return the policy's input: stored tokens decoded, new ones exact.

        both: origins of stored and new tokens.
        start, shift: first frame of the pass that the queries are from, and its `Plan.shift`.
        new: keys as the method stores them, values and rotated keys [B, H, T, D] of a new chunk;
            None without one.
        """
        context, num_new = self.context, 0 if new is None else new[0].shape[2]
        frame, place = self._frame_and_place(both.origin)
        # Old tokens first, then new ones, as in `_join`.
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        times = frame
        if self.held is not None:
            num_old = frame.shape[2] - num_new
            old_frame, old_place = frame[:, :, :num_old], place[:, :, :num_old]
            old_times = self.policy.times(old_frame, start)
            method, dtype = context.method, query_BHTD.dtype
            key = context.decode(method.key, self.held.key, dtype)[:, :, 0]
            value = context.decode(method.value, self.held.value, dtype)[:, :, 0]
            turns = self._turns(old_times, old_frame, old_place, shift)
            rotated = key if turns is None else turns.rotate(key[:, :, None])[:, :, 0]
            parts.append((key, value, rotated))
            times = torch.cat([old_times, frame[:, :, num_old:]], 2)
        if new is not None:
            parts.append(new)
        key, value, rotated = (torch.cat(part, 2) for part in zip(*parts, strict=True))
        bias = self._bias(both.count, times)
        return Tokens(
            key=key,
            value=value,
            rotated=rotated,
            query=query_BHTD,
            frame=frame,
            place=place,
            count=both.counts if bias is None else bias.exp(),  # exp(HIDDEN) is 0: out of reach
            note=both.notes,
            num_new=num_new,
            spec=context.spec,
            layer=self.layer,
            num_layers=context.spec.num_layers,
        )

    def _frame_and_place(self, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Return the frame of each token and its place in that frame, both [B, H, N] int64."""
        per_frame = self.context.spec.tokens_per_frame
        return (origin // per_frame).long(), (origin % per_frame).long()

    def _turns(self, times: Tensor, frame: Tensor, place: Tensor, shift: int) -> Table | None:
        """Return the rotations of stored keys on reading; None if they need none.

        times: positions at which the tokens are attended. shift: of the pass's plan.
        """
        context = self.context
        # `times is frame`: the policy returned its argument, so no token moves.
        if context.roped and times is frame and shift == 0:
            return None
        # The sink keeps its positions.
        times = times - shift * (frame >= context.spec.sink)
        if context.roped:
            return context.positions.tokens(times - frame, None, context.num_frames)
        return context.positions.tokens(times, place, context.num_frames)

    def _bias(self, count: Tensor | None, times: Tensor) -> Tensor | None:
        """Return logits to add [B, H, N] fp32: log of the counts, HIDDEN for tokens out of reach.

        times: positions at which tokens are attended; the window applies to these, not to the
        tokens' own frames.
        """
        bias = None if count is None else count.log()
        if self.first > self.context.spec.sink:
            gone = (times >= self.context.spec.sink) & (times < self.first)
            bias = torch.zeros_like(times, dtype=torch.float32) if bias is None else bias
            bias = bias.masked_fill(gone, HIDDEN)
        return bias


def select_tokens(packed: Packed, index_BHK: Tensor) -> Packed:
    """Return some tokens of one page [B, H, 1, N, ...], without decoding them.

    index [B, H, K] int64 -> parts [B, H, 1, K, ...].
    """
    parts = {}
    for name, part in packed.parts.items():
        parts[name] = rows_at(part[:, :, 0], index_BHK)[:, :, None]
    return replace(packed, parts=parts, page=(index_BHK.shape[2], packed.page[1]))


def _join(held: StoredTokens | None, new: StoredTokens) -> StoredTokens:
    """Join stored tokens and new ones, in this order."""
    # Parts join without decoding, since quantizers of token policies store each token alone.
    if held is None:
        return new
    return StoredTokens(
        _join_pages(held.key, new.key),
        _join_pages(held.value, new.value),
        torch.cat([held.origin, new.origin], 2),
        torch.cat([held.counts, new.counts], 2),
        torch.cat([held.notes, new.notes], 2),
    )


def _join_pages(old: Packed, new: Packed) -> Packed:
    """Join the tokens of two pages."""
    parts = {name: torch.cat([part, new.parts[name]], 3) for name, part in old.parts.items()}
    return replace(old, parts=parts, page=(old.page[0] + new.page[0], old.page[1]))
