"""The integration of a published study, kept runnable so that its cost can be measured.

Every pass of every layer decodes the whole capacity of the cache, attends densely to it, and
encodes the whole capacity again; codes are not packed. `harness.cache` is what replaces it.

Source  arXiv 2603.27469 with its public code: the patch that its RTN, KIVI and QuaRot rows ran
(int16) and the plans of its pruning rows (int8). What differs here:
- Quantizers and policies are this project's. Groups begin anew with each frame, where theirs run
  on and straddle chunks; zero points are not clamped, so encoding again does not wear values down;
  a Hadamard rotation is one product of matrices; a frame that is dropped never competes again.
- Codes are packed and unpacked once more around each call, because quantizers store bytes: about a
  tenth of the time of encoding and decoding, measured on a CPU.
- BF16 is written in place. Index lists, masks and the dense copy that one of its three code trees
  held beside the codes are not stored, and nothing is computed on the host.
- Pixels are rounded, not truncated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Fate, History, Method
from harness.attention.auto import Auto
from harness.attention.base import Backend, Scratch, Segment
from harness.attention.dense import attend_plain
from harness.cache import Plan
from harness.integration import Integration
from harness.models.rope import Rope, rotate
from harness.recoded import WIDE, Layer, Side


@dataclass(frozen=True)
class Dense(Backend):
    """Attention over tensors that lie there decoded: there is no packed history to read."""

    name: ClassVar[str] = "published dense"

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """The device's own kernel."""
        assert not history
        return attend_plain(q_BHTD, k_BHTD, v_BHTD)


@dataclass(frozen=True)
class Published(Integration):
    """Everything is decoded, attended densely and encoded again at every pass, noisy or not.

    codes: the type of a code, whatever its bits.

    Raises  ValueError: another type of codes.
    """

    free_before_decode: bool = False
    stream_decode: bool = False
    keep_previous: bool = True
    codes: Literal["int16", "int8"] = "int16"
    name: ClassVar[str] = "published"

    def __post_init__(self) -> None:
        """Refuse unknown types."""
        if self.codes not in WIDE:
            raise ValueError(f"integration.codes={self.codes}: choose {' or '.join(WIDE)}")

    def check(self, spec: CacheSpec, method: Method) -> None:
        """Keys lie roped at absolute positions, and the window has no sink."""
        found = {"sink": spec.sink, "positions": spec.positions, "keys": method.keys_in(spec)}
        served = {"sink": 0, "positions": "absolute", "keys": "roped"}
        for name, value in found.items():
            if value != served[name]:
                raise ValueError(
                    f"integration=published cannot serve {name}={value}, only {served[name]}: "
                    "choose integration=packed"
                )

    def resolve(
        self, attention: Auto | Backend, spec: CacheSpec, method: Method, device: torch.device
    ) -> Backend:
        """Its own; no backend for packed history has anything to read here."""
        if not isinstance(attention, Auto):
            raise ValueError(
                f"integration=published cannot use attention={attention.name}, it attends "
                "densely: leave attention=auto or choose integration=packed"
            )
        return Dense()

    def session(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        num_frames: int,
        device: torch.device,
    ) -> PublishedSession:
        """A cache whose capacity is the whole video, whatever the model's window."""
        wide = WIDE[self.codes]
        layers = [
            Layer(Side(method.key, num_frames, wide), Side(method.value, num_frames, wide))
            for _ in range(spec.num_layers)
        ]
        return PublishedSession(spec, method, backend, layers, device)


class PublishedSession:
    """Keys and values of one video; a `CacheSession`.

    The policy decides in the first pass of a chunk, after its attention, over what is stored and
    the chunk's noisy first keys: roped, as they lie there. Frames it drops stay in the attention
    as zero keys and values (logit 0, value 0), pooled ones as copies of their mean, which is taken
    anew at every pass; neither comes back. Frames that the window no longer reaches stay stored
    and compete. Without a policy the whole capacity is encoded, filled or not; under one, the
    frames there are so far. Dense tensors are a pass's activations, not part of the ledger.
    """

    def __init__(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        layers: list[Layer],
        device: torch.device,
    ) -> None:
        """An empty cache; the integration has checked what it must serve."""
        self.spec = spec
        self.method = method
        self.peak_bytes = 0
        self._backend = backend
        self._layers = layers
        self._rope = Rope(spec.head_dim, spec.grid, device)
        self._capacity = layers[0].key.capacity
        self._prunes = method.retention.most_kept(self._capacity) != self._capacity
        self._end = 0  # frames of the video so far, the current chunk included
        self._first = True  # whether this is the first pass of a chunk

    def plan(self, frames: range, commit: bool) -> Plan:
        """Place a pass over the chunk `frames`; a commit is a pass like any other."""
        self.ledger()
        self._first = frames.stop > self._end
        self._end = max(self._end, frames.stop)
        turns = self._rope.frames(frames).view().flatten(0, 1)
        return Plan(frames, commit, 0, turns)

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Attention of the current chunk over the window and itself [B, H, T, D]."""
        store, chunk = self._layers[layer], slice(plan.frames.start, plan.frames.stop)
        q, k = rotate(q_BHTD, plan.turns), rotate(k_BHTD, plan.turns)
        keys, values = (side.read(k, len(plan.frames)) for side in (store.key, store.value))
        for dense, current in ((keys, k), (values, v_BHTD)):
            dense[:, :, chunk] = current.unflatten(2, (len(plan.frames), -1))
        seen_k, seen_v = (dense[:, :, self._reach].flatten(2, 3) for dense in (keys, values))
        out = self._backend.attend(q, seen_k, seen_v, (), Scratch())
        if self._first:
            self._decide(store, keys, values)
        num_frames = self._end if self._prunes else self._capacity
        full = [f for f in range(num_frames) if f not in store.gone]
        pooled = [f for f, fate in store.gone.items() if fate is Fate.POOL]
        store.key.write(keys, full, pooled)
        store.value.write(values, full, pooled)
        return out

    def ledger(self) -> dict[str, int]:
        """Bytes of the tensors held between passes, by what they are.

        `peak_bytes` is the largest sum it has seen: `plan` looks before each pass, and whoever
        runs the session after the last.
        """
        held: Counter[str] = Counter()
        for layer in self._layers:
            for side in (layer.key, layer.value):
                for name, part in side.packed.parts.items() if side.packed else ():
                    held[name] += part.nbytes
                held["pooled"] += side.means.nbytes if side.means is not None else 0
            held["notes"] += sum(note.nbytes for note in layer.notes.values())
        self.peak_bytes = max(self.peak_bytes, held.total())
        return {name: size for name, size in held.items() if size}

    @property
    def stored_bytes(self) -> int:
        """Bytes that history occupies, room for what is still to come included."""
        return sum(self.ledger().values())

    @property
    def nominal_bytes(self) -> int:
        """Bytes of what is stored if codes were packed and metadata cost nothing."""
        total = 0
        for side in (side for layer in self._layers for side in (layer.key, layer.value)):
            if side.packed is not None:
                total += torch.Size(side.packed.shape).numel() * side.packed.bits // 8
            total += side.means.nbytes if side.means is not None else 0
        return total

    @property
    def num_frames_held(self) -> float:
        """Frames of the window that are stored, full or pooled; mean over layers."""
        reach = range(self._end)[self._reach]
        kept = [f for x in self._layers for f in reach if x.gone.get(f) is not Fate.DROP]
        return len(kept) / self.spec.num_layers

    @property
    def _reach(self) -> slice:
        """Frames that the window reaches, the current chunk included."""
        window = self._end if self.spec.window is None else self.spec.window
        return slice(max(0, self._end - window), self._end)

    def _decide(self, store: Layer, k_BHFTD: Tensor, v_BHFTD: Tensor) -> None:
        """Note every frame anew, as it is stored by now, and let the policy choose."""
        policy, frames = self.method.retention, range(self._end)
        notes = {f: policy.observe(k_BHFTD[:, :, f], v_BHFTD[:, :, f]) for f in frames}
        store.notes = {f: note for f, note in notes.items() if note is not None}
        full = [f for f in frames if f not in store.gone]
        fates = policy.decide(History(full, self._end, store.notes))
        unknown = sorted(set(fates) - set(full))
        if unknown:
            raise ValueError(f"the retention policy decided over frame {unknown[0]}, not stored")
        store.gone |= {f: fate for f, fate in fates.items() if fate is not Fate.KEEP}
