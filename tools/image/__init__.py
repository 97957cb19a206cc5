"""The container images without a builder: made of Debian's packages and Python's, for several machines at once."""
