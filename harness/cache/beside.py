"""The session of a guidance branch that reads the history which another branch stores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import Tensor

from harness.api import Stores
from harness.cache.active import ActiveChunks
from harness.cache.arithmetic import Arithmetic
from harness.cache.attention.base import Scratch, Segment
from harness.cache.layer import Chunk, Layer, Plan
from harness.cache.numerics import KeyValueWatch
from harness.cache.session import Session
from harness.cache.traffic import Traffic


@dataclass
class SharedLayer:
    """Read-only view of a layer of another session.

    hidden: frames of which this branch has a version of its own.
    """

    layer: Layer
    hidden: range = range(0)

    def prepare(self, query_BHTD: Tensor, plan: Plan) -> None:
        """Do nothing: the other branch's passes decide over the history."""

    def make_room(self) -> None:
        """Do nothing."""

    def segments(self, plan: Plan) -> list[Segment]:
        """Return the stored frames that a pass sees, without those hidden here."""
        return self.layer.segments(replace(plan, hidden=self.hidden))

    def observe_noisy(self, chunk: Chunk, plan: Plan) -> None:
        """Do nothing."""

    def commit(self, chunk: Chunk, plan: Plan) -> None:
        """Refuse: this branch stores no history."""
        raise AssertionError("a branch that reads another one's history stores none")

    def evict(self, first: int) -> None:
        """Do nothing."""

    def renew(self, frames: range) -> None:
        """Do nothing."""

    @property
    def ledger(self) -> Counter[str]:
        """Return nothing: the other session counts its bytes."""
        return Counter()

    @property
    def nominal_bytes(self) -> int:
        """Return nothing: the other session counts its bytes."""
        return 0

    @property
    def num_frames_held(self) -> float:
        """Frames that attention still reads."""
        return self.layer.num_frames_held

    def stored(self) -> tuple[list[int], Tensor, Tensor]:
        """Return whole frames of the other session's layer."""
        return self.layer.stored()


class BesideSession(Session):
    """Reads another session's history, and stores unfinished chunks of its own.

    Both sessions plan the same passes. A pass that stores history in the other one keeps its chunk
    here as an unfinished one. It hides the other branch's version until `forget`.
    """

    def __init__(self, owner: Session) -> None:
        """Start beside the session that stores the history, before its first pass."""
        # The same method, positions and policy; it allocates nothing until the first pass.
        self.__dict__.update(owner.__dict__)
        self._owner = owner
        self.peak_bytes = 0
        self.traffic = Traffic()  # what this branch reads; the owner counts what is encoded
        self.watch = KeyValueWatch()
        self.arithmetic = Arithmetic()
        self.restart()

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass; see `Session.plan`."""
        plan = super().plan(frames, stores, sees)
        if stores != "history":
            return plan
        for layer in self._layers:
            assert isinstance(layer, SharedLayer)
            layer.hidden = frames
        return replace(plan, stores="active")

    def forget(self, frames: range) -> None:
        """Free a chunk; from now on passes read the other branch's version."""
        super().forget(frames)
        for layer in self._layers:
            assert isinstance(layer, SharedLayer)
            layer.hidden = range(0)

    def restart(self) -> None:
        """Free unfinished chunks, and read the history that the other session has now."""
        self._layers = [SharedLayer(layer) for layer in self._owner._layers]
        self._active = [ActiveChunks(self._context) for _ in self._layers]
        self._scratch = Scratch()
        self._end = 0
