"""Tests of ``stratum/ingest/``."""
