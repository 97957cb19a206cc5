"""The media types and annotations that tell what a manifest is of (OCI image specification 1.1, Docker, Stratum)."""

from __future__ import annotations

MANIFEST_MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_OF_MANIFESTS_MEDIA_TYPE = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG_MEDIA_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD_MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST_MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST_MEDIA_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"

ARTIFACT_TYPE = "application/vnd.stratum.commit.v1"
INDEX_MEDIA_TYPE = "application/vnd.stratum.index.v1+zstd"
VERITY_MEDIA_TYPE = "application/vnd.stratum.verity.v1"
PROFILE_TYPE = "application/vnd.stratum.profile.v1"
COMMIT_ANNOTATION = "dev.stratum.commit"
