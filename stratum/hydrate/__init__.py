"""Fetching what is read of commits that are not here whole: the gate, the keeper and its worker, the cache."""
