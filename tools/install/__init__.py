"""Installing from a checkout: ``make install``, ``make uninstall`` and ``make deb``. Standard library only."""
