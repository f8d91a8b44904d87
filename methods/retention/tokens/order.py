"""Sorts tokens by age, so that results do not depend on their order in storage."""

from __future__ import annotations

from dataclasses import fields, replace

from torch import Tensor

from harness.api import Revision, Tokens, rows_at


def lexsort(*keys: Tensor) -> Tensor:
    """Return indices [..., N] int64 that sort by the last key [..., N], ascending.

    The key before it breaks ties, and so on. Elements with equal keys keep their order.
    """
    # Stable sorts from the least to the most important key leave equal keys in the earlier order.
    order = keys[0].argsort(dim=-1, stable=True)
    for key in keys[1:]:
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    return order


def oldest_first(tokens: Tokens) -> tuple[Tokens, Tensor | None]:
    """Sort the tokens of every head by frame, then place.

    Returns the sorted tokens and the original index of each one [B, H, N]; None if they were
    sorted already.
    """
    # In sorted tokens a later one is newer, and rounding does not depend on the storage order.
    origin = tokens.frame * tokens.spec.tokens_per_frame + tokens.place
    # A sorted layer, the usual case, needs no copy of all its keys and values.
    if bool((origin.diff(dim=-1) >= 0).all()):
        return tokens, None
    order = origin.argsort(dim=-1, stable=True)
    return reordered(tokens, order), order


def reordered(tokens: Tokens, order_BHN: Tensor) -> Tokens:
    """Return the tokens of every head in the given order."""
    return replace(
        tokens,
        key=rows_at(tokens.key, order_BHN),
        value=rows_at(tokens.value, order_BHN),
        rotated=rows_at(tokens.rotated, order_BHN),
        frame=tokens.frame.gather(2, order_BHN),
        place=tokens.place.gather(2, order_BHN),
        count=tokens.count.gather(2, order_BHN),
        note=tokens.note.gather(2, order_BHN),
    )


def as_given(revision: Revision, order_BHN: Tensor) -> Revision:
    """Translate a revision of sorted tokens to the original order; its index is ascending."""
    index, back = order_BHN.gather(2, revision.index).sort(dim=-1)
    parts: dict[str, Tensor] = {"index": index}
    for field in fields(Revision):
        part = getattr(revision, field.name)
        if field.name != "index" and part is not None:
            parts[field.name] = part.gather(2, back) if part.dim() == 3 else rows_at(part, back)
    return Revision(**parts)
