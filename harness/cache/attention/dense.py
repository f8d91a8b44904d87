"""Dense attention by the fastest kernel of the device, with and without its log-sum-exp."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.cache.compiled import softmax


def attend_plain(q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """Return softmax attention [B, H, T, D] in the dtype of q.

    On a CPU this is what `Compiled` computes, bit for bit, so that videos of both can be compared.
    """
    if not q_BHTD.is_cuda:
        loop = softmax.loop_for(q_BHTD.dtype)
        if loop is not None:
            return loop(q_BHTD, k_BHTD, v_BHTD, None)[0]
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
    """Return softmax attention and the natural log of its denominator.

    log_count: added to every logit. bias: added to the logits of each token [B, H, N].

    Shapes  out [B, H, T, D] in the dtype of q, lse [B, H, T] fp32.
    """
    # Ask for the operators directly: the public call does not return the log-sum-exp. Only some
    # kernels can add a bias.
    q, k, v, aten = q_BHTD, k_BHTD, v_BHTD, torch.ops.aten
    mask = None if bias_BHN is None else _mask(bias_BHN, q)
    if not q.is_cuda:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)
    # The flash kernel takes neither fp32 nor a mask. True asks for the log-sum-exp.
    elif q.dtype == torch.float32 or mask is not None:
        out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True)[:2]
    elif _order(q.device)[0] is SDPBackend.CUDNN_ATTENTION:
        out, lse = aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        lse = lse.reshape(*lse.shape[:2], -1)  # cuDNN gives [B, H, T, 1]
    else:
        out, lse = aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    # The same number on every logit changes the log-sum-exp but not the output, so no kernel needs
    # to add it. Some kernels pad the number of queries.
    return out, lse[..., : q.shape[2]] + log_count


def _mask(bias_BHN: Tensor, like_BHTD: Tensor) -> Tensor:
    """Return logits to add [B, H, T, N] in the dtype of `like`; rows share memory."""
    num_tokens = bias_BHN.shape[-1]
    # Kernels need rows that begin at multiples of 16 elements: allocate more and cut the view.
    rows = F.pad(bias_BHN.to(like_BHTD.dtype), (0, -num_tokens % 16))[..., None, :num_tokens]
    return rows.expand(*like_BHTD.shape[:3], num_tokens)


def vendor(device: torch.device) -> str:
    """Return the name of the kernel that `attend_plain` tries first; rows record it."""
    if device.type == "cpu":
        return "torch flash"
    return _order(device)[0].name.lower().removesuffix("_attention")


@cache
def _order(device: torch.device) -> list[SDPBackend]:
    """Return kernels from the fastest to the slowest; torch skips those that cannot run."""
    # cuDNN uses the asynchronous tensor cores of Hopper (9.0); the flash kernel of torch does not.
    first = [SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    if torch.cuda.get_device_capability(device) >= (9, 0):
        first.reverse()
    return [*first, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class Merge:
    """Merges attention over parts of the tokens into attention over all of them, in place.

    out: merged output so far [B, H, T, D] fp32.

    Source  the online softmax of FlashAttention (arXiv 2205.14135), over parts.
    """

    def __init__(self, out_BHTD: Tensor, lse_BHT: Tensor) -> None:
        """Start with the first part: its output and its log-sum-exp [B, H, T]."""
        self.out = out_BHTD.float()
        self._lse = lse_BHT

    def add(self, out_BHTD: Tensor, lse_BHT: Tensor) -> None:
        """Merge another part, weighted by its share of the softmax denominator."""
        # Each output is normalised by its own denominator exp(lse); rescale both to that of the
        # sum. Differences of logarithms never overflow, where the denominators could.
        both = torch.logaddexp(self._lse, lse_BHT)
        self.out.mul_((self._lse - both).exp_()[..., None])
        self.out.addcmul_(out_BHTD.to(self.out.dtype), (lse_BHT - both).exp_()[..., None])
        self._lse = both
