"""SHA-256 and BLAKE2 of a few bytes: the interpreter's own, as ``hashlib`` loads OpenSSL, which takes longer than that.

For much data, what ``hashlib`` has is faster.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b, sha256
else:
    try:
        from _blake2 import blake2b

        if sys.version_info >= (3, 12):
            from _sha2 import sha256
        else:
            from _sha256 import sha256
    except ImportError:  # an interpreter that was built without them
        from hashlib import blake2b, sha256

__all__ = ["blake2b", "sha256"]
