"""``python -m stratum``."""

from stratum.cli.start import main

main()
