"""Commits in OCI registries and OCI image layouts: the artifact format, push and pull.

Nothing is imported here: ``requests`` and oras load when a registry is spoken to (``client``), pyzstd when a pack is
written or read. ``artifact``, ``packs``, ``target`` and ``reuse`` are pure; the format itself is specified in
``registry/ARTIFACT.md``.
"""
