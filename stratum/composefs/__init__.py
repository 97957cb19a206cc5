"""Trees as composefs images, and the fs-verity digests that name their objects. Pure: no I/O of its own."""
