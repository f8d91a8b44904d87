"""Order of tokens: every tie is broken by age, so nothing depends on how the tokens were given."""

from __future__ import annotations

from dataclasses import fields, replace

import torch
from torch import Tensor

from harness.api import Revision, Tokens


def lexsort(*keys: Tensor) -> Tensor:
    """Indices [..., N] int64 that sort ascending by the last key [..., N], ties by the one before.

    Equal in all keys: as they came.
    """
    order = keys[0].argsort(dim=-1, stable=True)
    for key in keys[1:]:
        order = order.gather(-1, key.gather(-1, order).argsort(dim=-1, stable=True))
    return order


def picked(x_BHND: Tensor, index_BHK: Tensor) -> Tensor:
    """The rows [B, H, K, D] of x [B, H, N, D] at `index` [B, H, K]."""
    return x_BHND.gather(2, index_BHK[..., None].expand(*index_BHK.shape, x_BHND.shape[-1]))


def oldest_first(tokens: Tokens) -> tuple[Tokens, Tensor | None]:
    """The tokens of every head by frame, then place; and where each one stood, None if it was so.

    Then a later token is a newer one, and rounding cannot depend on the order of storage.
    """
    order = lexsort(tokens.place, tokens.frame)
    if torch.equal(order, torch.arange(order.shape[-1], device=order.device).expand_as(order)):
        return tokens, None
    return reordered(tokens, order), order


def reordered(tokens: Tokens, order_BHN: Tensor) -> Tokens:
    """The tokens of every head in another order."""
    return replace(
        tokens,
        key=picked(tokens.key, order_BHN),
        value=picked(tokens.value, order_BHN),
        rotated=picked(tokens.rotated, order_BHN),
        frame=tokens.frame.gather(2, order_BHN),
        place=tokens.place.gather(2, order_BHN),
        count=tokens.count.gather(2, order_BHN),
        note=tokens.note.gather(2, order_BHN),
    )


def as_given(revision: Revision, order_BHN: Tensor) -> Revision:
    """A revision of the tokens that `oldest_first` gave, of those it was given; index ascending."""
    index, back = order_BHN.gather(2, revision.index).sort(dim=-1)
    parts: dict[str, Tensor] = {"index": index}
    for field in fields(Revision):
        part = getattr(revision, field.name)
        if field.name != "index" and part is not None:
            parts[field.name] = part.gather(2, back) if part.dim() == 3 else picked(part, back)
    return Revision(**parts)
