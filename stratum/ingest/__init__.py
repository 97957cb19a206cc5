"""Getting trees in and out: a directory or an overlay's upperdir becomes a tree and objects, a tree a directory."""
