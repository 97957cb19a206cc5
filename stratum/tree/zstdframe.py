"""One zstd frame (RFC 8878), as frames of stores and blobs of artifacts are compressed. Pure.

libzstd is loaded by what needs it, inside the functions.
"""

from __future__ import annotations

from stratum.errors import DamagedError

_LEVEL = 3


def options() -> dict[int, int]:
    """How everything is compressed. The bytes depend on these and on the version of libzstd, on nothing else."""
    from stratum.zstd import CompressionParameter

    return {CompressionParameter.compression_level: _LEVEL, CompressionParameter.checksum_flag: 1}


def compress(data: bytes | memoryview) -> bytes:
    """``data`` as one zstd frame, with a checksum."""
    from stratum import zstd

    return zstd.compress(data, options=options())


def decompress(data: bytes | memoryview, limit: int, what: str) -> bytes:
    """What one zstd frame holds; ``DamagedError`` where it is malformed, followed by more, or over ``limit`` bytes."""
    from stratum import zstd

    decompressor = zstd.ZstdDecompressor()
    try:
        text = decompressor.decompress(data, limit + 1)
    except zstd.ZstdError as exc:
        raise DamagedError(f"{what} cannot be decompressed: {exc}") from None
    if len(text) > limit:
        raise DamagedError(f"{what} decompresses to more than {limit} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise DamagedError(f"{what} is not one whole zstd frame")
    return text
