"""Tests of ``stratum/volumes/``."""
