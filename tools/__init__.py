"""Set-up and the demo; not part of what is installed."""
