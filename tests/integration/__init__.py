"""Stores, imports, mounts and commits on the real kernel."""
