"""What the carrier of requests loads."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
from stratum.oci.lightly import lightly
with lightly():
    import stratum.oci.client
unused = {"jsonschema", "charset_normalizer", "charset_normalizer.api", "importlib.metadata"}
assert "oras.provider" in sys.modules
assert not unused & set(sys.modules)
import oras.provider, requests, urllib3.http2
oras.provider.jsonschema.validate({}, {"type": "object"})
import jsonschema
assert jsonschema.validate is oras.provider.jsonschema.validate
answer = requests.Response()
answer._content = "caf\\u00e9".encode("latin-1") * 50
assert answer.apparent_encoding
assert urllib3.http2.version("requests") == requests.__version__
assert unused <= set(sys.modules)
"""


def test_what_no_request_needs_is_loaded_when_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True)
