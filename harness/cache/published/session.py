"""The cache session of the published integration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from harness.api import DROP, CacheSpec, Method, Stores
from harness.cache.attention.base import Backend, Scratch, attend_grouped
from harness.cache.layer import Plan
from harness.cache.numerics import KeyValueWatch, are_finite
from harness.cache.positions import Positions
from harness.cache.published.layer import Layer
from harness.cache.traffic import Arithmetic, Traffic


class PublishedSession:
    """Keys and values of one video; a `CacheSession`.

    The policy decides in each pass that encodes, over the stored frames and the chunk's own roped
    keys, noisy or not; the decision changes the attention of later passes only.
    """

    def __init__(
        self,
        spec: CacheSpec,
        method: Method,
        backend: Backend,
        layers: Sequence[Layer],
        positions: Positions,
    ) -> None:
        """Create an empty cache; call `Published.check` before."""
        self.spec = spec
        self.method = method
        self.peak_bytes = 0
        self.watch = KeyValueWatch()
        self.arithmetic = Arithmetic()
        self._backend = backend
        self._layers = layers
        self._positions = positions
        self._end = 0  # frames of the video so far, the current chunk included

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass over the chunk `frames`.

        Raises  ValueError: `sees` limits the pass to a part of the window.
        """
        if sees is not None:
            raise ValueError(
                "integration=published shows every pass the whole window: choose integration=packed"
            )
        assert stores != "active", "Loop.check refuses chunks under way"
        # Every pass replaces the tensors, so the peak may lie between any two passes.
        self.ledger()
        self._end = max(self._end, frames.stop)
        return Plan(frames, stores, 0, self._positions.frames(frames))

    def restart(self) -> None:
        """Raise AssertionError: one history per video; `Loop.check` refuses loops that restart."""
        raise AssertionError("the published integration keeps one history per video")

    def attend(
        self, layer: int, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, plan: Plan
    ) -> Tensor:
        """Return the attention of the current chunk over the window and itself [B, H, T, D]."""
        if plan.stores == "history":
            self.watch.note(layer, False, are_finite(k_BHTD, v_BHTD))
        q, k = plan.rotate(q_BHTD), plan.rotate(k_BHTD)
        keys, values = self._layers[layer].step(k, v_BHTD, plan.frames, plan.stores == "history")
        # Attention still reads dropped frames, as zero keys and values (logit 0, value 0), and
        # pooled frames as copies of their mean, which every pass that encodes computes again.
        # The tensors span the whole capacity, and frames that have left the window stay stored:
        # attend to the window only.
        size = self.spec.tokens_per_frame
        seen = slice(self._reach.start * size, self._reach.stop * size)
        keys, values = keys[:, :, seen], values[:, :, seen]
        if plan.stores == "history":
            self.watch.note(layer, True, are_finite(keys, values))
        # The chunk is among the decoded keys already, so there is no history beside them.
        self.arithmetic.attended(keys, (), q.shape[2])
        return attend_grouped(self._backend, q, keys, values, (), Scratch())

    def ledger(self) -> dict[str, int]:
        """Return the bytes of tensors that stay allocated between passes, by component.

        Each call updates `peak_bytes`: `plan` calls it before each pass, and the caller of the
        session should call it after the last.
        """
        # Without the decoded cache, which belongs to the activations of a pass, unless the program
        # keeps it (`Program.beside`).
        held: Counter[str] = Counter()
        seen: set[int] = set()
        for layer in self._layers:
            for name, tensor in layer.tensors:
                # Tensors may be views of the same memory: count each storage once.
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in seen:
                    seen.add(storage.data_ptr())
                    held[name] += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, held.total())
        return {name: size for name, size in held.items() if size}

    @property
    def traffic(self) -> Traffic:
        """What all layers encoded and decoded so far."""
        sides = [side.traffic for layer in self._layers for side in (layer.key, layer.value)]
        return sum(sides, Traffic())

    @property
    def stored_bytes(self) -> int:
        """Bytes of the history, including memory allocated for frames still to come."""
        # No scratch and no unfinished chunks are in this ledger, so all of it is history.
        return sum(self.ledger().values())

    @property
    def nominal_bytes(self) -> int:
        """Bytes of the stored frames without metadata, at the nominal bits per value."""
        return sum(layer.nominal_bytes for layer in self._layers)

    @property
    def num_frames_held(self) -> float:
        """Frames in the window, full or pooled; mean over layers."""
        reach = range(self._end)[self._reach]
        kept = [f for layer in self._layers for f in reach if layer.placements.get(f) != DROP]
        return len(kept) / self.spec.num_layers

    @property
    def _reach(self) -> slice:
        """Range of the frames in the window, the current chunk included."""
        window = self._end if self.spec.window is None else self.spec.window
        return slice(max(0, self._end - window), self._end)
