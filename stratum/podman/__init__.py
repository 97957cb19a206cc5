"""What needs Podman: its own settings, by its command line; its containers, by its API (podman-py)."""
