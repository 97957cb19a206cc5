"""Credentials, region and endpoint of S3, as the AWS tools find them.

In this order: the table of the bucket in the settings; the variables ``AWS_...``; the profile in ``~/.aws/credentials``
and ``~/.aws/config`` with its keys, its ``credential_process``, its web identity; what else only the ``aws`` program
knows how to get (single sign-on, a role by way of another profile) is asked of that; then the roles of a container and
of a machine, which obstore gets and renews by itself.
"""

from __future__ import annotations

import configparser
import shlex
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from stratum.config import PlaceSettings
from stratum.errors import DeniedError, StratumError, UsageError, quoted
from stratum.oci.access import Access
from stratum.oci.bucketname import Bucket
from stratum.oci.foundkeys import (
    USUAL_REGION,
    Found,
    endpoint_from,
    has_metadata_service,
    home_file,
    json_of,
    keys_file,
    no_keys,
    read_file,
    region_from,
    run_program,
    settings_of,
)

Table = Mapping[str, str]
Keys = dict[str, Any]

_FRESH = timedelta(minutes=5)
"""For how long keys of a session are believed that a file has, which others renew."""

_BY_THE_PROGRAM = ("sso_session", "sso_start_url", "source_profile", "credential_source", "login_session")
_PROCESS = "a program that gives credentials (credential_process)"


def aws_found(bucket: Bucket, access: Access) -> Found:
    """How the bucket is reached. ``DeniedError`` where there are no credentials, ``UsageError``, ``StratumError``."""
    settings, environment = settings_of(bucket, access), access.environment
    profile = _Profile(settings, access)
    region = region_from(
        bucket,
        settings.region,
        environment.get("AWS_REGION"),
        environment.get("AWS_DEFAULT_REGION"),
        profile.table.get("region"),
    )
    given = endpoint_from(bucket, settings.endpoint, *_endpoints(environment, profile))
    region = region or USUAL_REGION
    endpoint = given or f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    config: Keys = {
        "region": region,
        "endpoint": endpoint,
        "virtual_hosted_style_request": False,
        "conditional_put": "etag",
        "s3_express": False,
        "skip_signature": False,
    }
    found = None if settings.anonymous else _keys(profile, settings, access, config)
    if found is not None:
        provider, secrets = found
        return Found(config, endpoint, given is None, provider, secrets)
    if settings.anonymous or not access.ambient:
        config["skip_signature"] = True
        return Found(config, endpoint, given is None)
    if not _by_role(environment, config):
        raise no_keys(bucket, endpoint, "not in AWS_ACCESS_KEY_ID, not in ~/.aws, and this machine has no role")
    return Found(config, endpoint, given is None)


def _endpoints(environment: Table, profile: _Profile) -> tuple[str | None, ...]:
    if environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return ()
    return (
        environment.get("AWS_ENDPOINT_URL_S3"),
        environment.get("AWS_ENDPOINT_URL"),
        profile.nested("s3", "endpoint_url"),
        profile.table.get("endpoint_url"),
    )


def _keys(
    profile: _Profile, settings: PlaceSettings, access: Access, config: Keys
) -> tuple[Callable[[], Keys] | None, tuple[str, ...]] | None:
    """What gives keys, and what of them is secret; None where nobody has any. A web identity goes to ``config``."""
    environment = access.environment
    chosen = (settings.profile or settings.credentials_file) if access.ambient else None
    if not chosen and environment.get("AWS_ACCESS_KEY_ID"):
        keys = _static(
            environment["AWS_ACCESS_KEY_ID"],
            environment.get("AWS_SECRET_ACCESS_KEY", ""),
            environment.get("AWS_SESSION_TOKEN"),
            "the environment",
        )
        return (lambda: keys), _secrets(keys)
    if not access.ambient:
        return None
    if not chosen and _web_identity(
        config,
        environment.get("AWS_WEB_IDENTITY_TOKEN_FILE"),
        environment.get("AWS_ROLE_ARN"),
        environment.get("AWS_ROLE_SESSION_NAME"),
    ):
        return None, ()
    return profile.keys(config)


def _static(key: str, secret: str, token: str | None, where: str, expires: datetime | None = None) -> Keys:
    if not secret:
        raise UsageError(f"{where} has an AWS access key without its secret", hint="set AWS_SECRET_ACCESS_KEY, too")
    return {"access_key_id": key, "secret_access_key": secret, "token": token or None, "expires_at": expires}


def _secrets(keys: Keys) -> tuple[str, ...]:
    return tuple(filter(None, (keys["secret_access_key"], keys["token"])))


def _web_identity(config: Keys, token_file: str | None, role: str | None, name: str | None) -> bool:
    if not token_file or not role:
        return False
    config |= {"web_identity_token_file": token_file, "role_arn": role, "role_session_name": name or "stratum"}
    return True


def _by_role(environment: Table, config: Keys) -> bool:
    """Whether a container's or a machine's role may give keys."""
    for name in ("CREDENTIALS_RELATIVE_URI", "CREDENTIALS_FULL_URI", "AUTHORIZATION_TOKEN_FILE"):
        if environment.get(f"AWS_CONTAINER_{name}"):
            config[f"container_{name.lower()}"] = environment[f"AWS_CONTAINER_{name}"]
    if "web_identity_token_file" in config or any(key.startswith("container_credentials") for key in config):
        return True
    return environment.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true" and has_metadata_service()


class _Profile:
    """One profile of the AWS tools' files; an empty one where they are not to be read."""

    def __init__(self, settings: PlaceSettings, access: Access) -> None:
        environment = access.environment
        self._environment = environment
        self._needed = settings.profile or environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
        self.name = self._needed or "default"
        self.table: dict[str, str] = {}
        self._services: dict[str, str] = {}
        self._own = keys_file(settings, access)
        self._credentials, self._config = self._own, None
        if not access.ambient:
            self._credentials = None
            return
        if self._own is None:
            self._credentials = _file(environment, "AWS_SHARED_CREDENTIALS_FILE", "credentials")
        self._config = _file(environment, "AWS_CONFIG_FILE", "config")
        self._read()

    def _read(self) -> None:
        config = _sections(self._config, needed=False)
        name = self.name if self.name == "default" else f"profile {self.name}"
        self.table = dict(config.get(name, {}))
        self._services = config.get(f"services {self.table.get('services', '')}", {})
        credentials = _sections(self._credentials, needed=self._own is not None)
        self.table |= credentials.get(self.name, {})
        if self._needed and name not in config and self.name not in credentials:
            raise StratumError(
                f"there is no AWS profile {quoted(self.name)} in {self._credentials} or {self._config}",
                hint="see AWS_PROFILE and the settings",
            )

    def nested(self, service: str, key: str) -> str | None:
        """A value of a service, which stands indented below its name."""
        for text in (self._services.get(service), self.table.get(service)):
            for line in (text or "").splitlines():
                name, _, value = line.partition("=")
                if name.strip() == key and value.strip():
                    return value.strip()
        return None

    def keys(self, config: Keys) -> tuple[Callable[[], Keys] | None, tuple[str, ...]] | None:
        table = self.table
        if table.get("aws_access_key_id"):
            keys = self._stored()
            return (self._stored if keys["token"] else lambda: keys), _secrets(keys)
        if _web_identity(
            config, table.get("web_identity_token_file"), table.get("role_arn"), table.get("role_session_name")
        ):
            return None, ()
        if table.get("credential_process"):
            try:
                command = shlex.split(table["credential_process"])
            except ValueError:
                command = []
            if not command:
                raise StratumError(f"credential_process of the AWS profile {quoted(self.name)} is not a command")
        elif any(table.get(key) for key in _BY_THE_PROGRAM):
            if shutil.which("aws", path=self._environment.get("PATH")) is None:
                raise DeniedError(
                    f"the AWS profile {quoted(self.name)} gets its keys in a way that only the aws program knows",
                    hint="install the aws command line, or give the profile a credential_process",
                )
            options = ["export-credentials", "--profile", self.name, "--format", "process"]
            command = ["aws", "configure", *options]
        else:
            return None
        asked = self._asked(command)
        cache = [asked]

        def provide() -> Keys:
            return cache.pop() if cache else self._asked(command)

        return provide, _secrets(asked)

    def _stored(self) -> Keys:
        """The keys that are in the files now; those of a session are renewed there by others."""
        self._read()
        table = self.table
        token = table.get("aws_session_token")
        expires = datetime.now(timezone.utc) + _FRESH if token else None
        where = f"the AWS profile {quoted(self.name)}"
        return _static(
            table.get("aws_access_key_id", ""), table.get("aws_secret_access_key", ""), token, where, expires
        )

    def _asked(self, command: list[str]) -> Keys:
        """What a program gives, in the form of ``credential_process``."""
        answer = json_of(run_program(command, self._environment, _PROCESS), f"the answer of {_PROCESS}")
        key, secret, token, until = (
            answer.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration")
        )
        if not isinstance(key, str) or not isinstance(secret, str) or not isinstance(token, (str, type(None))):
            raise DeniedError(f"{_PROCESS} gave an answer that is not credentials")
        return _static(key, secret, token, _PROCESS, _time(until))


def _time(text: object) -> datetime | None:
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise DeniedError(f"{_PROCESS} gave an end of its credentials that is no time") from None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _file(environment: Table, variable: str, name: str) -> Path | None:
    named = environment.get(variable)
    return Path(named) if named else home_file(environment, ".aws", name)


def _sections(path: Path | None, *, needed: bool) -> dict[str, dict[str, str]]:
    """The sections of a file of the AWS tools; empty where it is not there. ``StratumError`` where it is none."""
    text = read_file(path, "the AWS profile", needed=needed) if path is not None else None
    return read_sections(text, str(path)) if text is not None else {}


def read_sections(text: str, where: str) -> dict[str, dict[str, str]]:
    """The sections in the text of such a file. ``StratumError`` names ``where`` it came from."""
    parser = configparser.RawConfigParser(strict=False, default_section="\0", delimiters=("=",))
    try:
        parser.read_string(text)
    except configparser.Error:
        raise StratumError(
            f"{where} is not a file of the AWS tools", hint="its lines are [profile] and key = value"
        ) from None
    return {" ".join(name.split()): dict(parser.items(name)) for name in parser.sections()}
