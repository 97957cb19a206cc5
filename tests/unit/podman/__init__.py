"""Tests of ``stratum/podman/``."""
