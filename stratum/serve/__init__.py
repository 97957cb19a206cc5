"""``stratum serve``: the store over HTTP, as a registry (OCI distribution API 1.1), as pages, and for peers."""
