"""Gives a trained student larger key offsets, and trains it to give its earlier outputs again.

The offsets of keys are drawn before the teacher's training, in deviations of the projections at
that time, and then frozen. Training makes the projections larger, most of all in late layers, so
the same offsets are fewer deviations of a trained network. `renew_offsets` sets them to the drawn
multiples of the deviations after training. This changes the outputs of the network. `Imitation`
trains it to give its earlier outputs again, which takes a few hundred steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harness.api import CacheSpec
from harness.models.wan import SelfAttention, Wan
from harness.small_model.student.few_steps import Flow, Noisy, Regression
from harness.small_model.training.objective import Batch, commit
from harness.small_model.training.teacher import TeacherForcing


@dataclass(frozen=True)
class Imitation(Regression):
    """Loss that trains a network to predict the same flow as its teacher at the same steps."""

    def target_flow(self, noisy: Noisy, flow: Flow) -> Tensor:
        """Return the teacher's flow."""
        return noisy.flow(self.teacher, self.spec)(noisy.x_BFChw, noisy.sigma_BF)


@torch.no_grad()
def renew_offsets(network: Wan, spec: CacheSpec, batch: Batch) -> None:
    """Enlarge the key offsets of every layer to fit the deviations of the trained projections.

    A channel whose mean is already larger stays as it is. The gains of the key norm grow by one
    factor per layer, so the differences between tokens keep their size.

    batch: its first video, clean, gives means and deviations of the projections.
    """
    layers = [each for each in network.modules() if isinstance(each, SelfAttention)]
    found: list[Tensor] = []

    def record(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(out[0].float())

    hooks = [layer.k.register_forward_hook(record) for layer in layers]
    try:
        forcing = TeacherForcing(spec, batch.x_BFChw.device)
        commit(network, batch.x_BFChw[:1], network.text_kv(batch.text_BTE[:1]), forcing, 0)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, u_TC in zip(layers, found, strict=True):
        mean, deviation, bias = u_TC.mean(0), u_TC.std(0), layer.k.bias
        # Biases were drawn for projections of deviation 1. A channel keeps the sign of its mean,
        # unless that is small.
        sign = torch.where(mean.abs() > deviation / 2, mean.sign(), bias.sign())
        shift = sign * torch.maximum(mean.abs(), bias.abs() * deviation) - mean
        # The norm divides by the RMS over channels, which the shift raises.
        before, after = (u.square().mean(1).sqrt() for u in (u_TC, u_TC + shift))
        bias.add_(shift)
        layer.norm_k.weight.mul_((after / before).log().mean().exp())
