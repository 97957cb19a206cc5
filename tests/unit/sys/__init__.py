"""Tests of ``stratum/sys/``."""
