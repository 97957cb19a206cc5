"""Tests of ``stratum/mount/``."""
