"""Tests of ``stratum/hydrate/``."""
