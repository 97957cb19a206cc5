"""Coverage-guided fuzzing of all that ``unit/test_hostile_text.py`` parses, for minutes or hours instead of examples.

::

    .venv/bin/pip install atheris
    .venv/bin/python -m tests.fuzz NAME -max_total_time=600     one parser, with any options of libFuzzer
    .venv/bin/python -m tests.fuzz                              the names

It is no test of the suite: it ends when it finds something, or when it is told to.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path


def main() -> None:
    import atheris

    with atheris.instrument_imports(include=["stratum"]):
        from stratum.errors import StratumError
        from tests.unit.test_hostile_text import PARSERS
    if len(sys.argv) < 2:
        print("\n".join(PARSERS))
        return
    parse, seed = PARSERS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        with suppress(StratumError):
            parse(data)

    with tempfile.TemporaryDirectory() as corpus:
        Path(corpus, "seed").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
