"""``python -I -m stratum.hook``: what the hook's JSON files start, too."""

from stratum.hook.main import run

run()
