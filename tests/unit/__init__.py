"""Pure code, tested without root, disk or kernel features."""
