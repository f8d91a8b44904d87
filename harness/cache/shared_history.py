"""The session of a guidance branch that reads the history which another branch stores."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from torch import Tensor

from harness.api import Stores
from harness.cache.attention.base import Segment
from harness.cache.layer import Chunk, Layer, Plan
from harness.cache.session import Session
from harness.cache.traffic import Traffic


@dataclass
class SharedLayer:
    """Read-only view of a layer of another session.

    hidden: frames of which this branch has its own version.
    """

    owner: Session
    number: int
    hidden: range = range(0)

    @property
    def layer(self) -> Layer:
        """The other session's layer."""
        # Ask each time: the owner makes new layers when its history restarts.
        return self.owner._layers[self.number]

    def prepare(self, query_BHTD: Tensor, plan: Plan) -> None:
        """Do nothing: the policy chooses tokens in the passes of the other branch."""

    def make_room(self) -> None:
        """Do nothing: the owner evicts its own tokens."""

    def segments(self, plan: Plan) -> list[Segment]:
        """Return the stored frames that a pass sees, without those hidden here."""
        return self.layer.segments(replace(plan, hidden=self.hidden))

    def observe_noisy(self, chunk: Chunk, plan: Plan) -> None:
        """Do nothing: the policy observes the passes of the other branch."""

    def commit(self, chunk: Chunk, plan: Plan) -> None:
        """Raise AssertionError: this branch stores no history."""
        raise AssertionError("a branch that reads another one's history stores none")

    def evict(self, first: int) -> None:
        """Do nothing: the other session evicts."""

    def renew(self, frames: range) -> None:
        """Do nothing: the other session frees the frames."""

    @property
    def ledger(self) -> Counter[str]:
        """No bytes: the other session counts them."""
        return Counter()

    @property
    def nominal_bytes(self) -> int:
        """No bytes: the other session counts them."""
        return 0

    @property
    def num_frames_held(self) -> float:
        """Frames that attention still reads."""
        return self.layer.num_frames_held

    def stored(self) -> tuple[list[int], Tensor, Tensor]:
        """Return whole frames of the other session's layer."""
        return self.layer.stored()


class SharedHistorySession(Session):
    """Reads another session's history, and stores unfinished chunks of its own.

    Both sessions plan the same passes. When a pass stores a chunk in the other session's history,
    this session keeps its own version of the chunk as an unfinished one, and hides the other's
    version until `forget`.
    """

    def __init__(self, owner: Session) -> None:
        """Start before the first pass of `owner`, the session that stores the history."""
        self._owner = owner
        # Share the context: method, positions and policy are the same. Its traffic counts what the
        # owner encodes; this session counts only what it reads itself.
        self._open(owner._context, Traffic())

    def start(self) -> None:
        """Begin without unfinished chunks, on the history that the other session has now."""
        super().start()
        num_layers = self.spec.num_layers
        self._shared = [SharedLayer(self._owner, number) for number in range(num_layers)]
        self._layers = list(self._shared)

    def plan(self, frames: range, stores: Stores, sees: range | None = None) -> Plan:
        """Place a pass; see `Session.plan`."""
        # The owner moves the window: `SharedLayer.evict` does nothing.
        plan = super().plan(frames, stores, sees)
        if stores != "history":
            return plan
        # This branch computed other keys and values for the chunk, so it must not read the owner's.
        for layer in self._shared:
            layer.hidden = frames
        return replace(plan, stores="active")

    def forget(self, frames: range) -> None:
        """Free a chunk; from now on passes read the other branch's version."""
        super().forget(frames)
        for layer in self._shared:
            layer.hidden = range(0)
