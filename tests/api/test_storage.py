"""What a quantizer of a user's own inherits."""

from __future__ import annotations

from torch import Tensor

from harness.api import Exact, Packed


def test_a_class_that_decodes_in_its_own_way_inherits_no_layout() -> None:
    class Doubled(Exact):
        def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
            super().stage(packed, out_BHFTD)
            out_BHFTD *= 2

    class Named(Exact):
        """Changes nothing that a loop computes."""

    assert Doubled().kernel_layout() is None
    assert Named().kernel_layout() == Exact().kernel_layout()
