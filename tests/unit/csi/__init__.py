"""Tests of ``stratum/csi/``."""
