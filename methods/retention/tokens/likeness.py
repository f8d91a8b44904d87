"""Cosine similarity of the keys of a head, without the matrix of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

# Cosines computed at a time: 8 MiB in fp32. Few columns, because most keys match one of the first.
ROWS, COLUMNS = 8192, 256


def unit(key: Tensor) -> Tensor:
    """Return keys [..., D] scaled to length 1, in the same dtype; a zero key stays zero."""
    lengths: Tensor = torch.linalg.vector_norm(key, dim=-1, keepdim=True)
    return key / (lengths + 1e-8)


def mean_cosine(unit: Tensor, live: Tensor) -> Tensor:
    """Return the mean cosine similarity of each key and all live keys; with itself it is 0.

    Shapes  unit [..., N, D], live [..., N] -> [..., N].

    It takes linear time, because sum_i u_i . u_j = (sum_i u_i) . u_j. Keys that are not live get 0
    and do not affect the others.

    Source  FlowCache (arXiv 2602.10825). Its release has the linear form for one of its models and
    the quadratic one for the other.
    """
    # Subtract the computed own term, not 1: keys have length 1 only up to rounding, and a zero key
    # has length 0.
    alive = unit * live[..., None].to(unit.dtype)
    own = alive.square().sum(-1)
    # On a CPU sums of products are faster here than products of matrices with one column.
    whole = (alive * alive.sum(-2, keepdim=True)).sum(-1)
    return (whole - own) / live.sum(-1, keepdim=True)


def newest_twin(unit_ND: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Find, for each key, the newest other key with a cosine above `threshold`.

    unit_ND: keys of length 1, oldest first. threshold: at least 0, so that zero keys match nothing.
    Returns the index [N] int64 and the cosine [N]; -1 and 0 if there is no such key.
    """
    # Search blocks of columns from the newest, and drop a row once it has a match: only keys that
    # match nothing cost a whole row of the matrix. The result is exact.
    num_keys = len(unit_ND)
    index = torch.full((num_keys,), -1, device=unit_ND.device)
    cosine = unit_ND.new_zeros(num_keys)
    rows = torch.arange(num_keys, device=unit_ND.device)
    for stop in range(num_keys, 0, -COLUMNS):
        start = max(0, stop - COLUMNS)
        keys = unit_ND[start:stop].flip(0).T  # the first column is the newest key
        missing = []
        for part in rows.split(ROWS):
            cos = unit_ND[part] @ keys
            own = ((part >= start) & (part < stop)).nonzero()[:, 0]
            cos[own, stop - 1 - part[own]] = -1.0  # a key is not its own twin
            # argmax over bytes gives the first column that is 1; column 0 if there is none.
            newest = (cos > threshold).view(torch.uint8).argmax(1)
            closest = cos.gather(1, newest[:, None])[:, 0]
            found = closest > threshold
            index[part[found]] = stop - 1 - newest[found]
            cosine[part[found]] = closest[found]
            missing.append(part[~found])
        rows = torch.cat(missing)
        if not len(rows):
            break
    return index, cosine
