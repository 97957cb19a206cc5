"""OCI as such: descriptors, manifests, and the places that have them. Knows no store.

Nothing is imported here: ``requests`` and oras load when a registry is spoken to (``client``).
"""
