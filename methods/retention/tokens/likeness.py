"""How alike the keys of a head are: cosines, without the matrix of all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2048  # rows and columns of cosines at a time: 16 MiB


def unit(key_ND: Tensor) -> Tensor:
    """Keys of length 1 [N, D], in the dtype given; a zero key stays zero."""
    lengths: Tensor = key_ND.norm(dim=1, keepdim=True)
    return key_ND / (lengths + 1e-8)


def mean_cosine(unit_ND: Tensor, live_N: Tensor) -> Tensor:
    """The mean over live keys i of cos(k_i, k_j) with its own taken as 0 [N], in linear time.

    sum_i u_i . u_j = (sum_i u_i) . u_j, of which the own term is taken off as it is (not as 1:
    keys are of length 1 only up to rounding, and a zero key has none). Keys that are not live
    get 0 and count for nothing.

    Source  FlowCache (arXiv 2602.10825), whose release has the linear form for one of its models
    and the quadratic one for the other.
    """
    alive = unit_ND * live_N[:, None].to(unit_ND.dtype)
    own = alive.square().sum(1)
    return (alive @ alive.sum(0) - own) / live_N.sum()


def newest_twin(unit_ND: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """For every key the newest other key with a cosine above the threshold: index [N] and cosine.

    Index -1 and cosine 0 where there is none. Keys come oldest first; threshold >= 0, so zero keys
    have no twin. Exact: columns are searched block by block from the newest, and a row that has
    found its twin is done, so only keys that are like no other cost a whole row of the matrix.
    """
    num_keys = len(unit_ND)
    index = torch.full((num_keys,), -1, device=unit_ND.device)
    cosine = unit_ND.new_zeros(num_keys)
    rows = torch.arange(num_keys, device=unit_ND.device)
    for stop in range(num_keys, 0, -BLOCK):
        columns = torch.arange(max(0, stop - BLOCK), stop, device=unit_ND.device).flip(0)
        keys = unit_ND[columns].T
        missing = []
        for part in rows.split(BLOCK):
            cos = unit_ND[part] @ keys
            alike = (cos > threshold) & (part[:, None] != columns)
            first = alike.to(torch.uint8).argmax(1)  # of equal ones the first: the newest
            found = alike.any(1)
            index[part[found]] = columns[first[found]]
            cosine[part[found]] = cos[found, first[found]]
            missing.append(part[~found])
        rows = torch.cat(missing)
        if not len(rows):
            break
    return index, cosine
