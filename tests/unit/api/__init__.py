"""Tests of ``stratum/api/``."""
