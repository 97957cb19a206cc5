"""What the carrier of requests loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LIGHT = """
import sys
from stratum.oci.lightly import lightly
with lightly():
    import stratum.oci.client
assert "oras.provider" in sys.modules
assert not {"jsonschema", "charset_normalizer", "importlib.metadata"} & set(sys.modules)
import requests
assert requests.compat.chardet.detect(b"abc")["encoding"] == "ascii"
assert requests.compat.chardet.__version__ == sys.modules["charset_normalizer"].__version__
import importlib.metadata
assert importlib.metadata.version("requests") == requests.__version__
import oras.provider
oras.provider.jsonschema.validate({}, {"type": "object"})
import jsonschema
assert jsonschema.validate is oras.provider.jsonschema.validate
"""

_IN_THE_BLOCK = """
import sys
from stratum.oci.lightly import lightly
try:
    with lightly():
        raise ImportError
except ImportError:
    assert "jsonschema" not in sys.modules
with lightly():
    import jsonschema as later
    assert later.validate is sys.modules["jsonschema"].validate
    from jsonschema.exceptions import ValidationError
    from importlib.metadata import version
    import charset_normalizer.version, importlib.metadata
    assert version("requests") == importlib.metadata.version("requests")
    import stratum.oci.client
assert importlib.metadata.distributions
assert sys.modules["jsonschema"].ValidationError is ValidationError
with lightly():
    assert sys.modules["jsonschema"].ValidationError is ValidationError
"""

_SIDE_BY_SIDE = """
import sys, threading
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.target import parse_target
sys.setswitchinterval(1e-5)
done, all_begin = [], threading.Barrier(9)
def load(number):
    all_begin.wait()
    open_source(parse_target(f"127.0.0.1:1/some/{number}"), Access()).close()
    done.append(number)
def use():
    all_begin.wait()
    from jsonschema.exceptions import ValidationError
    import jsonschema
    assert jsonschema.ValidationError is ValidationError
    done.append("used")
threads = [threading.Thread(target=load, args=(number,)) for number in range(8)] + [threading.Thread(target=use)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(done) == 9, done
assert sys.modules["jsonschema"].__file__
"""


@pytest.mark.parametrize(
    "program", [_LIGHT, _IN_THE_BLOCK, _SIDE_BY_SIDE], ids=["light", "in the block", "side by side"]
)
def test_what_no_request_needs_is_loaded_when_it_is_used(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)
