"""Tests of ``stratum/fs/``."""
