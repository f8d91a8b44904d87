"""The cache of keys and values: session, layers, pages, positions, attention over it."""

from harness.cache.integration import CacheSession, Integration, Packed
from harness.cache.session import Session

__all__ = ["CacheSession", "Integration", "Packed", "Session"]
