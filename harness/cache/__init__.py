"""The cache of keys and values: session, layers, pages, positions and attention."""

from harness.cache.integration import CacheSession, Integration, Packed
from harness.cache.session import Session

__all__ = ["CacheSession", "Integration", "Packed", "Session"]
