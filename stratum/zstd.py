"""zstd (RFC 8878) as Stratum uses it: the standard library's from Python 3.14 on, before that its backport.

Both have the same interface and the same libzstd behind it. Loaded late: only what compresses or reads what is
compressed imports this.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
        compress,
        decompress,
    )
else:
    from backports.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
        compress,
        decompress,
    )

PACKAGES = () if sys.version_info >= (3, 14) else ("backports.zstd",)
"""What has to be found besides the standard library for this to load."""

__all__ = [
    "PACKAGES",
    "CompressionParameter",
    "DecompressionParameter",
    "ZstdCompressor",
    "ZstdDecompressor",
    "ZstdError",
    "compress",
    "decompress",
]
