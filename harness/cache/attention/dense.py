"""Dense attention by the best kernel of the device, with and without its log-sum-exp."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def attend_plain(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Softmax attention; output [B, H, T, D] of the dtype of q."""
    if not q_BHTD.is_cuda:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)
    with sdpa_kernel(_order(q_BHTD.device), set_priority=True):
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)


def attend_dense(
    q_BHTD: Tensor,
    k_BHTD: Tensor,
    v_BHTD: Tensor,
    log_count: float = 0.0,
    bias_BHN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention and the natural log of its denominator: out [B, H, T, D], lse [B, H, T].

    log_count is added to every logit. That changes the log-sum-exp alone: attention over one kind
    of tokens does not depend on it, so no kernel need know. bias: a logit for each
    token, which only some kernels can add. out is of the dtype of q, lse fp32.
    """
    q, k, v, aten = q_BHTD, k_BHTD, v_BHTD, torch.ops.aten
    mask = None if bias_BHN is None else _mask(bias_BHN, q)
    if not q.is_cuda:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)
    elif q.dtype == torch.float32 or mask is not None:
        out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[:2]
    elif _order(q.device)[0] is SDPBackend.CUDNN_ATTENTION:
        out, lse = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        lse = lse.reshape(*lse.shape[:2], -1)
    else:
        out, lse = aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    return out, lse[..., : q.shape[2]] + log_count  # some kernels pad the number of queries


def _mask(bias_BHN: Tensor, like_BHTD: Tensor) -> Tensor:
    """Logits to add [B, H, T, N], in rows that begin where kernels want them."""
    num_tokens = bias_BHN.shape[-1]
    rows = F.pad(bias_BHN.to(like_BHTD.dtype), (0, -num_tokens % 16))[..., None, :num_tokens]
    return rows.expand(*like_BHTD.shape[:3], num_tokens)


def vendor(device: torch.device) -> str:
    """The kernel that `attend_plain` asks for first, as recorded with every row."""
    if device.type == "cpu":
        return "torch flash"
    return _order(device)[0].name.lower().removesuffix("_attention")


@cache
def _order(device: torch.device) -> list[SDPBackend]:
    """Kernels from the fastest to the slowest; those that cannot serve the inputs are skipped.

    cuDNN uses Hopper's asynchronous tensor cores, the flash kernel of torch does not.
    """
    first = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    if torch.cuda.get_device_capability(device) >= (9, 0):
        first.reverse()
    return [*first, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Merge:
    """Attention over parts of the tokens, merged in place as it comes.

    Holds out [B, H, T, D] fp32 and its log-sum-exp [B, H, T].
    Source  the online softmax of FlashAttention (arXiv 2205.14135), over parts.
    """

    def __init__(self, out_BHTD: Tensor, lse_BHT: Tensor) -> None:
        """Begin with the first part."""
        self.out = out_BHTD.float()
        self._lse = lse_BHT

    def add(self, out_BHTD: Tensor, lse_BHT: Tensor) -> None:
        """Weigh another part in."""
        both = torch.logaddexp(self._lse, lse_BHT)
        self.out.mul_((self._lse - both).exp_()[..., None])
        self.out.addcmul_(out_BHTD.to(self.out.dtype), (lse_BHT - both).exp_()[..., None])
        self._lse = both
