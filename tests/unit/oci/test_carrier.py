"""What the carrier of requests loads."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
import stratum.oci.client
assert "oras.provider" in sys.modules
assert "jsonschema" not in sys.modules
import oras.provider
oras.provider.jsonschema.validate({}, {"type": "object"})
import jsonschema
assert jsonschema.validate is oras.provider.jsonschema.validate
"""


def test_what_no_request_needs_is_loaded_when_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True)
