"""Tests of ``stratum/c4/``."""
