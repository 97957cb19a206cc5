"""Tests; README.md says how they are laid out and what they may need."""
