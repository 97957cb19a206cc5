"""C4 IDs, and trees as C4M text. Pure: no I/O, no store."""
