"""Moving commits: the artifact format, push and pull.

Nothing is imported here: zstd loads when a pack is written or read. ``artifact``, ``packs`` and ``planning`` are
pure; the format itself is specified in ``registry/ARTIFACT.md``. A push is ``bases`` (what is there), ``planning``
(what is sent) and ``push``; a pull is ``pull`` (the commit) and ``objects`` (its objects, or any others).
"""
