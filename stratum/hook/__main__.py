"""``python -I -m stratum.hook``: what the hook's JSON files start."""

from stratum.hook.main import main
from stratum.sys.ending import end

end(main())
