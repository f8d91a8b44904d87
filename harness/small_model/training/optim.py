"""Initial weights, optimisers and averaged weights of a training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.overrides import TorchFunctionMode

from harness.models.wan import Wan
from harness.system.machine import is_emulated


def initialise(network: Wan, seed: int) -> None:
    """Fill a network with the weights that a training starts from; the same seed gives the same."""
    # A generator of its own: the weights must not depend on what was drawn before.
    draws = torch.Generator().manual_seed(seed)
    # Matrices of zeros. Every branch of a block ends in one behind a gate of 1, so a block is the
    # identity at first, and the first step already changes it. With zeros in the projection of
    # time, the modulation does not depend on time at first.
    silent = ("self_attn.o.", "cross_attn.o.", "ffn.2.", "time_projection.", "head.head.")
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "norm" in name and name.endswith("weight"):
                tensor.fill_(1)
            elif "modulation" in name or name.endswith("bias") or any(s in name for s in silent):
                tensor.zero_()
            else:
                fan_in = tensor[0].numel()  # this deviation keeps the variance of activations
                tensor.copy_(torch.randn(tensor.shape, generator=draws) / fan_in**0.5)
            if name.startswith("blocks") and "modulation" in name:
                # Rows of the modulation: shift, scale and gate of attention, then of feed-forward.
                tensor[:, [2, 5]] = 1


def optimisers(network: Wan) -> list[Optimizer]:
    """Return Muon for the matrices in the blocks and AdamW for all other weights.

    The steps of Muon are scaled to the size of those of AdamW, so one learning rate serves both.

    Source  Muon (Jordan et al., 2024), scaled as in arXiv 2502.16982.
    """
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, weight in network.named_parameters():
        # Muon makes the singular values of a step equal, which suits matrices between hidden
        # layers. Its authors leave embeddings, heads, norms and biases to AdamW.
        inside = name.startswith("blocks") and weight.dim() == 2
        (hidden if inside else rest).append(weight)
    # Muon multiplies in BF16. Where PyTorch emulates that, a step takes twenty times as long as in
    # fp32.
    half = torch.empty(0, dtype=torch.bfloat16, device=network.device)
    kind = WideMuon if is_emulated(half) else Muon
    return [
        kind(hidden, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
        AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


class WideMuon(Muon):
    """`torch.optim.Muon` with its matrix products in fp32 instead of BF16."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights; return what the closure returns, or None without a closure."""
        step: Callable[..., Any] = super().step
        with _WithoutBf16():
            return step(closure)


class _WithoutBf16(TorchFunctionMode):
    """Turns `tensor.bfloat16()` into `tensor`: PyTorch's Muon has no setting for its dtype."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return args[0] if func is Tensor.bfloat16 else func(*args, **(kwargs or {}))


def set_lr(optims: Iterable[Optimizer], lr: float) -> None:
    """Set the learning rate of the next step."""
    for optim in optims:
        for group in optim.param_groups:
            group["lr"] = lr


class Average:
    """Exponential moving average of a network's weights, which starts as a copy of them."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: w.detach().clone() for name, w in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average with the weights after a step, which is counted from 0."""
        # A smaller decay at first: otherwise the random initial weights would stay in the average
        # for about 1 / (1 - decay) steps.
        decay = min(self.decay, (1 + step) / (10 + step))
        ours: list[Tensor] = list(self.weights.values())
        # One call for all tensors instead of a loop in Python.
        torch._foreach_lerp_(ours, list(network.state_dict().values()), 1 - decay)
