"""EROFS images as composefs uses them: all metadata of a tree, none of its file contents but the smallest."""

from stratum.composefs.erofs.writer import image_pieces

__all__ = ["image_pieces"]
