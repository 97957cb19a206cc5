"""Which extended attributes of a source belong to a tree, and what an image can carry.

Stored: ``user.*``, POSIX ACLs, ``security.capability`` and ``trusted.*`` (which only root sees). Left out are the
labels that the policy of one host gives to files (``security.selinux``, IMA, EVM, SMACK ...) and the other
``system.*`` names, which file systems make up. ``trusted.overlay.*`` is kept under its own name: the image writer
escapes it, so it comes back as plain data and never acts as overlayfs's own.
"""

from __future__ import annotations

from stratum.errors import StratumError
from stratum.tree.limits import check_xattrs
from stratum.tree.model import Xattrs

_PREFIXES = (b"user.", b"trusted.")
_NAMES = frozenset((b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability"))


def stored_xattrs(xattrs: Xattrs) -> Xattrs:
    """Those of ``xattrs`` that a tree keeps, in the same order.

    Raises ``StratumError`` where they do not fit into an image.
    """
    if not xattrs:
        return xattrs
    kept = tuple(item for item in xattrs if item[0].startswith(_PREFIXES) or item[0] in _NAMES)
    if kept and (problem := check_xattrs(kept)):
        raise StratumError(f"it {problem}", hint="remove some of them: getfattr -d -m - shows them")
    return kept
