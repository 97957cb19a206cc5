"""Tests of ``stratum/tree/``."""
