"""Tests of ``stratum/oci/``."""
