"""Tests of ``stratum/transfer/``."""
