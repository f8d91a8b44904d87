"""Attention over packed history: the interface `base.Backend` and its implementations."""

from harness.cache.attention.auto import Auto
from harness.cache.attention.compiled import Compiled
from harness.cache.attention.fused import Fused
from harness.cache.attention.int8 import Int8
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from harness.cache.attention.staged import Staged

__all__ = ["Auto", "Compiled", "Fused", "Int8", "Portable", "Reference", "Staged"]
