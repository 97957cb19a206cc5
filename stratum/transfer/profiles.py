"""Profiles on their way: in what order the objects of a commit were first read (``store.profiles``), as an artifact
that refers to the commit's.

An image manifest 1.1 whose ``subject`` is the manifest of the commit, with the ``artifactType``
``application/vnd.stratum.profile.v1`` and one layer of that media type, the profile. Nothing depends on it: where it
cannot be sent, brought or read, files are fetched when they are read. It decides what is fetched early and nothing
else, so whoever can write to the place may say it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, StratumError
from stratum.oci.descriptor import Descriptor, MalformedError, describe, json_object, read_descriptor
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE, PROFILE_TYPE
from stratum.oci.referrers import Referrer
from stratum.oci.remote import Sink, Source, Upload, fetch
from stratum.store.clock import rfc3339, utc_now
from stratum.store.profiles import PROFILE_MAX
from stratum.transfer.artifact import CREATED_ANNOTATION

if TYPE_CHECKING:
    from stratum.store import Store

_EMPTY = b"{}"
_EMPTY_MEDIA_TYPE = "application/vnd.oci.empty.v1+json"
_LAYER_ANNOTATION = "dev.stratum.profile"
"""The digest of the layer, so that a list of referrers tells whether a profile is there already."""


def send_profile(store: Store, commit: str, remote: Sink, manifest: str) -> bool:
    """Send the commit's profile, where the store has one, to go with the ``manifest`` (a digest) in ``remote``; whether
    it is there."""
    profile = store.profiles.read(commit)
    if profile is None:
        return False
    try:
        subject = describe(MANIFEST_MEDIA_TYPE, remote.get_manifest(manifest)[0])
        layer, config = describe(PROFILE_TYPE, profile), describe(_EMPTY_MEDIA_TYPE, _EMPTY)
        known = remote.list_referrers(subject.digest, PROFILE_TYPE)
        if all(referrer.annotations.get(_LAYER_ANNOTATION) != layer.digest for referrer in known):
            for blob, data in ((config, _EMPTY), (layer, profile)):
                if not remote.has_blob(blob):
                    remote.put_blob(Upload.of_bytes(blob, data))
            remote.put_referrer(_manifest(config, layer, subject))
    except StratumError:
        return False
    return True


def bring_profile(store: Store, commit: str, remote: Source, manifest: str) -> None:
    """Keep the newest profile that refers to the ``manifest`` (a digest) in ``remote`` as that of the commit, where the
    store has none."""
    with suppress(StratumError):
        if store.profiles.read(commit) is not None:
            return
        newest = max(remote.list_referrers(manifest, PROFILE_TYPE), key=_created, default=None)
        if newest is not None:
            data, _ = remote.get_manifest(newest.manifest.digest)
            store.profiles.write(commit, fetch(remote, _layer(data, manifest)))


def _created(referrer: Referrer) -> str:
    return referrer.annotations.get(CREATED_ANNOTATION, "")


def _manifest(config: Descriptor, layer: Descriptor, subject: Descriptor) -> bytes:
    def value(blob: Descriptor) -> dict[str, object]:
        return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}

    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_MEDIA_TYPE,
            "artifactType": PROFILE_TYPE,
            "config": value(config),
            "layers": [value(layer)],
            "subject": value(subject),
            "annotations": {CREATED_ANNOTATION: rfc3339(utc_now()), _LAYER_ANNOTATION: layer.digest},
        },
        separators=(",", ":"),
    ).encode()


def _layer(data: bytes, subject: str) -> Descriptor:
    """The profile of the manifest ``data``, which came from outside and refers to ``subject``. ``DamagedError``."""
    try:
        value = json_object(data)
        layers, about = value.get("layers"), value.get("subject")
        if not isinstance(layers, list) or len(layers) != 1:
            raise MalformedError("it has not one layer")
        if not isinstance(about, dict) or about.get("digest") != subject:
            raise MalformedError("it refers to something else")
        return read_descriptor(layers[0], "the layer", {PROFILE_TYPE: PROFILE_MAX})
    except MalformedError as exc:
        raise DamagedError(f"the profile is not valid: {exc}") from None
