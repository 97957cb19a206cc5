"""Directory trees in memory: entries, the canonical dump, digests, merge and diff. Pure: no I/O, no store."""
