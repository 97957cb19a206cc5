"""Tests of ``stratum/hook/``."""
