"""Containers with the OCI hook, and a real registry server."""
