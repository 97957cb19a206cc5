"""The volume plugin: strata as named volumes, for those who cannot set annotations."""
