"""The session namespace: where the mounts of an ordinary user are, and files have the IDs that containers give them."""
