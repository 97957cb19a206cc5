"""Stratum: versioned, content-addressed, mountable state for containers."""

__version__ = "0.1.0"
