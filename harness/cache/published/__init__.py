"""The integration of a published study, kept runnable so that its cost can be measured.

Every pass of every layer decodes what is stored of the cache, attends densely to it, and encodes
all of it again; codes are not packed. `harness.cache.session` is what replaces it.

Source  arXiv 2603.27469. Its numbers come from three states of one program; `conf/integration` has
a file for each, and `conf/method/published` one for each of the 33 methods. What differs here:
- Codes are packed and unpacked once more around each call, because quantizers store bytes: about a
  tenth of the time of encoding and decoding, measured on a CPU.
- BF16 is written in place. Nothing is computed on the host.
- Pixels are rounded, not truncated.
"""

from harness.cache.published.integration import Dense, Published
from harness.cache.published.session import PublishedSession

__all__ = ["Dense", "Published", "PublishedSession"]
