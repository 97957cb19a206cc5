"""Tests of ``stratum/history/``."""
