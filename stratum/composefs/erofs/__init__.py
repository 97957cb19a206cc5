"""EROFS images as composefs uses them: all metadata of a tree, none of its file contents but the smallest."""
