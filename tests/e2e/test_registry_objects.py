"""Single objects of a commit in a registry, without a pull of the commit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.oci.access import Access
from stratum.oci.places import open_source
from stratum.oci.remote import fetch
from stratum.oci.target import Target, parse_target
from stratum.store import Store
from stratum.store.objects import Staging
from stratum.transfer.artifact import read_manifest
from stratum.transfer.objects import ObjectFetch, find_parts, read_packs
from stratum.transfer.packs import Member
from stratum.transfer.push import push
from stratum.transfer.resume import PackFiles
from stratum.transfer.running import running
from tests.e2e.registry_artifacts import make_commit
from tests.e2e.registry_server import registry_server

pytestmark = pytest.mark.registry

FILES = {f"file-{number:02}": random.Random(number).randbytes(500_000) for number in range(40)}


def fetched(source: Target, wanted: Mapping[bytes, int], staging: Path) -> tuple[list[Member], int]:
    """(what was fetched to ``staging``, bytes that came for it)."""
    with (
        open_source(source, Access()) as remote,
        running("a test", 1, None) as job,
        ThreadPoolExecutor(2) as pool,
    ):
        manifest = read_manifest(remote.get_manifest(source.reference)[0], str(source))
        packs = read_packs(manifest.packs, partial(fetch, remote), str(source), pool)
        files = PackFiles(Store.create(staging / "store").layout, staging, remote)
        objects, arrived = ObjectFetch(remote, staging, files, job), list[Member]()
        for part in find_parts(packs, wanted):
            objects.fetch(part, arrived.append)
    return arrived, job.moved


def test_one_object_costs_what_it_is_large(tmp_path: Path) -> None:
    origin = Store.create(tmp_path / "origin")
    commit = make_commit(origin, FILES)
    with registry_server(tmp_path / "server") as server:
        target = parse_target(f"{server.host}/team/app:v1")
        push(origin, commit, target, Access())
        for number, name in enumerate(("file-00", "file-17", "file-39")):
            content, staging = FILES[name], tmp_path / f"staging-{number}"
            staging.mkdir()
            member = Member(verity_digest(content), len(content))
            arrived, moved = fetched(target, {member.digest: member.size, bytes(32): 500_000}, staging)
            assert arrived == [member]
            assert Path(Staging(str(staging)).path(member.digest)).read_bytes() == content
            assert moved < 3 << 20
