"""``python -m stratum``."""

from stratum.cli.main import main

main()
