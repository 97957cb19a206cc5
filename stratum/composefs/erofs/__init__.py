"""EROFS images as composefs uses them: all metadata of a tree, none of its file contents but the smallest."""

from stratum.composefs.erofs.writer import image_pieces, write_image

__all__ = ["image_pieces", "write_image"]
