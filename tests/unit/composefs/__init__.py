"""Tests of ``stratum/composefs/``."""
