"""Base class of the networks of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from harness.sampling.network import Attends, Network, TextKV

if TYPE_CHECKING:
    from harness.cache.layer import Plan


class VideoNetwork(nn.Module, Network):
    """Base of the networks: a module that serves the sampler as a `Network`.

    first_block: name of the first block, as FlopCounterMode prints it.
    """

    first_block: ClassVar[str]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        # With buffers, which take memory as parameters do.
        return sum(tensor.nbytes for tensor in self.state_dict().values())

    def forward(
        self, x_BFChw: Tensor, t_BF: Tensor, text_kv: TextKV, session: Attends, plan: Plan
    ) -> Tensor:
        """Run one pass over one chunk and return its flow; `plan` places it in the video."""
        # The sampler calls the parts itself, to skip the blocks or to read their inputs. A whole
        # pass is for the training of the small models and for tests.
        time = self.embed_time(t_BF)
        tokens = self.run(self.embed(x_BFChw), time, text_kv, session, plan)
        return self.finish(tokens, time, x_BFChw)
