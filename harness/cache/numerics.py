"""Whether numbers are finite, and where in a video they stopped being so.

Tensors are looked at on their device. The answers are read once a chunk, so that nothing waits for
a GPU in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harness.system.errors import NotFinite, first_line


def are_finite(*tensors: Tensor) -> Tensor:
    """Whether all values are finite [] bool, on the tensors' device; makes no copy of them."""
    # Both ends of a tensor with a NaN in it are NaN. Nothing is summed, which could overflow.
    ends = [end.float() for x in tensors if x.numel() for end in x.aminmax()]
    return torch.stack(ends).isfinite().all() if ends else torch.tensor(True)


class KeyValueWatch:
    """Notes of each layer whether a commit pass meets keys and values that are finite.

    Both those that it is about to store and the history that it decodes are looked at: not every
    attention kernel lets an infinite key show in its output.
    """

    def __init__(self) -> None:
        """Nothing has been seen."""
        self._notes: list[tuple[int, bool, Tensor]] = []  # layer, whether of history, answer

    def note(self, layer: int, is_history: bool, *answers: Tensor) -> None:
        """Remember answers of `are_finite`, unread."""
        self._notes += [(layer, is_history, answer) for answer in answers]

    def demand_finite(self, where: str, session: Any) -> None:
        """Forget the notes; raise NotFinite, naming the first layer, if one of them is bad.

        session: see `demand_finite_passes`.
        """
        notes, self._notes = self._notes, []
        if not notes:  # a pass that stores nothing
            return
        answers = torch.stack([answer for *_, answer in notes]).tolist()
        if not all(answers):
            layer, is_history, _ = notes[answers.index(False)]
            if is_history:
                raise NotFinite(
                    f"stored keys or values of layer {layer} are not finite when the commit pass "
                    f"of {where} reads them{_broken_history(session)}"
                )
            raise NotFinite(
                f"keys or values of layer {layer} are not finite in the commit pass of {where}, "
                "whose latents are"
            )


def demand_finite_passes(finite: Sequence[Tensor], where: str, session: Any) -> None:
    """Raise NotFinite if the latents of a denoising pass were not.

    finite: the answer of each pass of a chunk, in order. session: the cache they attended to; if it
    can decode what it stores, the message says whether the history is what broke them.
    """
    answers = torch.stack([*finite]).tolist()
    if not all(answers):
        step = answers.index(False) + 1
        raise NotFinite(
            f"the latents of {where} are not finite from denoising pass {step} of {len(answers)} "
            f"on{_broken_history(session)}"
        )


def _broken_history(session: Any) -> str:
    """The first layer and frame that the method decodes to values that are not finite."""
    if not hasattr(session, "stored") or not session.stored_bytes:
        return ""
    try:
        for layer in range(session.spec.num_layers):
            frames, *stored = session.stored(layer)
            for what, x_BHFTD in zip(("keys", "values"), stored, strict=True):
                finite_F = x_BHFTD.isfinite().transpose(0, 2).flatten(1).all(1).tolist()
                if not all(finite_F):
                    frame = frames[finite_F.index(False)]
                    return f"; the method decodes the {what} of layer {layer}, frame {frame}, so"
    except Exception as error:  # noqa: BLE001  the broken video is the news, not this
        return f"; its history cannot be looked at ({first_line(error)})"
    return "; all that the method decodes of the history is finite"
