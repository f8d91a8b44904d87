"""The contracts between the harness and its methods, and the data that both share.

Shape letters of the whole project: B batch, F latent frames, T tokens (of one frame if the shape
has an F), H heads, D head width, N groups of values that share a scale, C latent channels, h and w
latent height and width, E text width. Memory is the sum of the bytes of allocated tensors; GiB is
2**30.
"""

from harness.api.method import Method, Tier
from harness.api.retention import (
    DROP,
    KEEP,
    POOL,
    FramePolicy,
    History,
    Placement,
    Retention,
    Revision,
    Split,
    TokenPolicy,
    Tokens,
    rows_at,
)
from harness.api.reuse import Feature, PassInputs, Reuse
from harness.api.spec import Budget, CacheSpec, Stores, VideoSize
from harness.api.storage import (
    Centroids,
    CodePlane,
    Exact,
    Exceptions,
    KernelLayout,
    Packed,
    Quantizer,
)

__all__ = [
    "DROP",
    "KEEP",
    "POOL",
    "Budget",
    "CacheSpec",
    "Centroids",
    "CodePlane",
    "Exact",
    "Exceptions",
    "Feature",
    "FramePolicy",
    "History",
    "KernelLayout",
    "Method",
    "Packed",
    "PassInputs",
    "Placement",
    "Quantizer",
    "Retention",
    "Reuse",
    "Revision",
    "Split",
    "Stores",
    "Tier",
    "TokenPolicy",
    "Tokens",
    "VideoSize",
    "rows_at",
]
