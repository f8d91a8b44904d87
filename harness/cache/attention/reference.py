"""Reference backend: decodes everything and attends in fp32; tests compare other backends to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.cache.attention.base import Backend, Scratch, Segment


@dataclass(frozen=True)
class Reference(Backend):
    """Decodes the whole history in one piece, in plain channels; simple, slow and large."""

    name: ClassVar[str] = "reference"

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend to the concatenation of decoded history and the current chunk."""
        # Nothing is folded into the query and nothing is tiled, so that backends which do can be
        # compared with it.
        keys, values, bias = [], [], []
        for segment in history:
            num_frames = len(segment.pages.slots)
            shape = (*k_BHTD.shape[:2], segment.num_tokens, k_BHTD.shape[3])
            k, v = (torch.empty(shape, dtype=torch.float32, device=q_BHTD.device) for _ in "kv")
            segment.load_keys(slice(0, shape[1]), slice(0, num_frames), k, None)
            segment.load_values(slice(0, shape[1]), slice(0, num_frames), v, None)
            scratch.look(k, v)
            keys.append(k)
            values.append(v)
            # A stored token that stands for n tokens counts n times in the softmax: add log n to
            # its logit.
            shared = k.new_full((*k.shape[:2], 1, k.shape[2]), segment.log_count)
            bias.append(shared if segment.bias is None else segment.bias[:, :, None])
        k, v = torch.cat([*keys, k_BHTD.float()], 2), torch.cat([*values, v_BHTD.float()], 2)
        mask = torch.cat([*bias, k.new_zeros(*k.shape[:2], 1, k_BHTD.shape[2])], 3)
        out: Tensor = F.scaled_dot_product_attention(q_BHTD.float(), k, v, attn_mask=mask)
        return out.to(q_BHTD.dtype)
