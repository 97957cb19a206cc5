"""Moving commits: the artifact format, push and pull.

Nothing is imported here: pyzstd loads when a pack is written or read. ``artifact``, ``packs`` and ``reuse`` are pure;
the format itself is specified in ``registry/ARTIFACT.md``.
"""
