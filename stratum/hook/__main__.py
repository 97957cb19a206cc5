"""``python -I -m stratum.hook``: what the hook's JSON files start."""

import sys

from stratum.hook.main import main

sys.exit(main())
