"""``python -m tests.bench.onebyone REFERENCE COUNT``: the first objects of an artifact, a request for each.

What a reader without frames, read-ahead or several connections does: one range request for what holds an object, the
answer decompressed, the next. Nothing is verified, nothing kept.
"""

from __future__ import annotations

import sys

from stratum import zstd
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import fetch
from stratum.oci.target import parse_target
from stratum.transfer.artifact import read_manifest
from stratum.transfer.packs import read_index


def main() -> None:
    """Fetch ``sys.argv[2]`` objects of what ``sys.argv[1]`` names."""
    target, left = parse_target(sys.argv[1]), int(sys.argv[2])
    with open_source(target, Access()) as source:
        manifest = read_manifest(source.get_manifest(target.reference)[0], str(target))
        for layers in manifest.packs:
            index = read_index(fetch(source, layers.index), layers.pack.size, "an index")
            compressed, _ = index.frame_starts
            for number in range(min(left, len(index.members))):
                first, last = index.frames_of(number)
                start, end = compressed[first], compressed[last]
                data = source.read_range(layers.pack, start, end - start)
                assert data is not None, "no ranges"
                zstd.decompress(data)
                left -= 1
            if not left:
                return


if __name__ == "__main__":
    main()
