"""Histories of tags that several stores share, and how they are merged. Pure."""
