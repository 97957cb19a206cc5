"""Peers: the key of this host, the cards by which hosts know one another, and TLS between those that do."""
