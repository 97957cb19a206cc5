"""Tests of ``stratum/store/``."""
