"""The integration of a published study, reimplemented so that its cost can be measured.

Every pass of every layer decodes the whole stored cache, attends to it densely, and encodes all of
it again; codes are not packed. `harness.cache.session` is the efficient alternative.

Source  arXiv 2603.27469. Its numbers come from three versions of one program; `conf/integration`
has a file for each, and `conf/method/published` one for each of the 33 methods. Differences here:
- Our quantizers store packed bytes, so each call also packs or unpacks codes: about a tenth of the
  time of encoding and decoding, measured on a CPU.
- BF16 is written in place. No step runs on the host.
- Pixels are rounded, not truncated.
"""

from harness.cache.published.buffers import FullBuffers
from harness.cache.published.integration import Dense, Published
from harness.cache.published.session import PublishedSession

__all__ = ["Dense", "FullBuffers", "Published", "PublishedSession"]
