"""A program that ends right after it asked an object store ends as it wants to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.effort import examples
from tests.support.oddstore import odd_store

PROGRAM = """
import sys
from stratum.oci.access import Access
from stratum.oci.bucket import open_bucket
from stratum.oci.target import parse_target
target = parse_target(sys.argv[1])
bucket = open_bucket(target.bucket, Access(environment={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}))
bucket.put("tags/one", b"1" * 1000)
assert bucket.get("tags/one", 1 << 20)[0] == b"1" * 1000
assert [entry.key for entry in bucket.list("")] == ["tags/one"]
bucket.head("tags/one")
sys.exit(7)
"""


def test_it_ends_with_its_own_status() -> None:
    """What is left in threads of obstore can take the interpreter down in one of five runs."""
    command = [sys.executable, "-c", PROGRAM]
    with odd_store(heeds=("absent", "match")) as store:
        for _ in range(examples(4)):
            done = subprocess.run(
                [*command, store.reference], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (7, "")
