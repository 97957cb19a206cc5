"""XXH32 (xxHash fast digest algorithm, specification 0.1.1), which places names in EROFS's xattr name filter."""

from __future__ import annotations

import struct

_PRIME1 = 0x9E3779B1
_PRIME2 = 0x85EBCA77
_PRIME3 = 0xC2B2AE3D
_PRIME4 = 0x27D4EB2F
_PRIME5 = 0x165667B1
_MASK = 0xFFFFFFFF


def _rotate(value: int, bits: int) -> int:
    value &= _MASK
    return ((value << bits) | (value >> (32 - bits))) & _MASK


def xxh32(data: bytes, seed: int) -> int:
    """The 32-bit hash of ``data``."""
    stripes = len(data) - len(data) % 16
    if stripes:
        lanes = [seed + _PRIME1 + _PRIME2, seed + _PRIME2, seed, seed - _PRIME1]
        for words in struct.iter_unpack("<4I", data[:stripes]):
            lanes = [_rotate(lane + word * _PRIME2, 13) * _PRIME1 for lane, word in zip(lanes, words, strict=True)]
        value = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True))
    else:
        value = seed + _PRIME5
    value += len(data)
    words_end = len(data) - len(data) % 4
    for (word,) in struct.iter_unpack("<I", data[stripes:words_end]):
        value = _rotate(value + word * _PRIME3, 17) * _PRIME4
    for byte in data[words_end:]:
        value = _rotate(value + byte * _PRIME5, 11) * _PRIME1
    value &= _MASK
    value = ((value ^ (value >> 15)) * _PRIME2) & _MASK
    value = ((value ^ (value >> 13)) * _PRIME3) & _MASK
    return value ^ (value >> 16)
