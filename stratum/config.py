"""Settings: one table, and the only reader of the environment.

Order: command-line option, environment variable, configuration file, default. The configuration file is
``/etc/stratum/config.toml`` (for anyone but root also ``$XDG_CONFIG_HOME/stratum/config.toml``, which wins), a
TOML table of the keys below. Unknown keys are refused, so that a misspelt one is not silently ignored; and so is a file
that others than root and the caller own or can write, or one in such a directory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from stratum.errors import UsageError, quoted
from stratum.frozen import frozen
from stratum.sys.smallfile import read_trusted
from stratum.sys.userns import outer_uid, owns_system, system_owners

PULLS = ("whole", "lazy")
PREFETCHES = ("none", "profile", "all")
EVENTS = ("auto", "scan")
USER_MOUNTS = ("auto", "metadata", "data", "directory")
NO_LIMIT = 1 << 62
"""As a number of bytes: whatever there is room for."""

SYSTEM_CONFIG = Path("/etc/stratum/config.toml")
_MAX_FILE = 1 << 20


@frozen
class Setting:
    """One setting: its key in the file, its environment variable, what its value is, its default in words, its help."""

    key: str
    env: str
    form: str
    default: str
    help: str


SETTINGS = (
    Setting(
        "store",
        "STRATUM_STORE",
        "directory",
        "/var/lib/stratum for root, else $XDG_DATA_HOME/stratum",
        "Directory of the store.",
    ),
    Setting(
        "runtime_dir",
        "STRATUM_RUNTIME_DIR",
        "directory",
        "/run/stratum for root, else $XDG_RUNTIME_DIR/stratum; without a login /tmp/stratum-UID",
        "Directory of the mount state and of mounts made without a mountpoint.",
    ),
    Setting(
        "registry",
        "STRATUM_REGISTRY",
        "HOST[:PORT][/PATH]",
        "none",
        "Registry that push and pull use where a target names none.",
    ),
    Setting(
        "insecure_registries",
        "STRATUM_INSECURE_REGISTRIES",
        "list of HOST[:PORT]; one text, comma-separated, in the environment",
        "none",
        "Registries to reach over plain HTTP; loopback is allowed always.",
    ),
    Setting(
        "token_realms",
        "STRATUM_TOKEN_REALMS",
        "table of HOST[:PORT] = URL; HOST[:PORT]=URL, comma-separated, in the environment",
        "none",
        "Registries whose tokens come from another host, which may be sent the registry's passwords.",
    ),
    Setting(
        "places",
        "STRATUM_PLACES",
        'table of "s3://BUCKET" = table; as JSON in the environment',
        "none",
        "How object stores are reached: endpoint, region, profile, credentials_file, account, anonymous,"
        " unsafe_concurrent.",
    ),
    Setting(
        "cache_max",
        "STRATUM_CACHE_MAX",
        "bytes, such as 50G, or none",
        "what 'stratum cache limit' set, else none",
        "How much content that can be fetched again may take.",
    ),
    Setting(
        "cache_min_free",
        "STRATUM_CACHE_MIN_FREE",
        "percent, 0 to 99",
        "what 'stratum cache limit' set, else 15",
        "How much of the store's file system such content leaves free.",
    ),
    Setting(
        "cache_images",
        "STRATUM_CACHE_IMAGES",
        "bytes, such as 5G, or none",
        "what 'stratum cache limit' set, else 2 GiB or a twentieth of the store's file system, if that is less",
        "How much the images of commits may take, which mounts make; those that are not mounted go first.",
    ),
    Setting(
        "cache_verified_hours",
        "STRATUM_CACHE_VERIFIED_HOURS",
        "hours, 0 to 9999",
        "6",
        "For how long a source that was seen to have content is believed when that is to be evicted.",
    ),
    Setting(
        "history_max",
        "STRATUM_HISTORY_MAX",
        "bytes, such as 50G, or none",
        "a tenth of the store's file system",
        "How much contents in histories may take; a garbage collection lets the oldest go.",
    ),
    Setting(
        "pull",
        "STRATUM_PULL",
        "whole or lazy",
        "whole",
        "What a pull brings that is not told: every file, or each file when it is first read.",
    ),
    Setting(
        "prefetch",
        "STRATUM_PREFETCH",
        "none, profile or all",
        "profile",
        "What is fetched of a mounted commit that is not here whole before anybody asks: nothing, what was read first"
        " the last time, or everything.",
    ),
    Setting(
        "history_events",
        "STRATUM_HISTORY_EVENTS",
        "auto or scan",
        "auto",
        "How histories are kept: by what the kernel tells, where it does, or by looking now and then.",
    ),
    Setting(
        "user_mounts",
        "STRATUM_USER_MOUNTS",
        "auto, metadata, data or directory",
        "auto",
        "How mounts of anybody but root are made: a server for names and metadata, one for contents too, or a directory"
        " of names that is written once for each commit. auto: the first that works.",
    ),
    Setting(
        "jobs",
        "STRATUM_JOBS",
        "number, 1 to 1024",
        "number of processors",
        "Worker processes that read and hash files.",
    ),
)

STORE_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "The key for S3; with AWS_SECRET_ACCESS_KEY and, for a session, AWS_SESSION_TOKEN.",
    "AWS_SECRET_ACCESS_KEY": "The secret of that key.",
    "AWS_SESSION_TOKEN": "The token of a session of that key.",
    "AWS_PROFILE": "The profile of the AWS tools to use for S3; also AWS_DEFAULT_PROFILE.",
    "AWS_DEFAULT_PROFILE": "Likewise.",
    "AWS_SHARED_CREDENTIALS_FILE": "Where profiles have their keys; ~/.aws/credentials where not given.",
    "AWS_CONFIG_FILE": "Where profiles have the rest; ~/.aws/config where not given.",
    "AWS_REGION": "The region of buckets that say none; also AWS_DEFAULT_REGION.",
    "AWS_DEFAULT_REGION": "Likewise.",
    "AWS_ENDPOINT_URL": "The server of S3 for buckets that say none; AWS_ENDPOINT_URL_S3 wins.",
    "AWS_ENDPOINT_URL_S3": "Likewise.",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true: those two, and what profiles say of it, do not count.",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "A token to get the keys of AWS_ROLE_ARN with, as Kubernetes gives it.",
    "AWS_ROLE_ARN": "The role that token is for.",
    "AWS_ROLE_SESSION_NAME": "The name of its session.",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "Where a container gets the keys of its role; also ..._FULL_URI.",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "Likewise.",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "The token to ask for them with.",
    "AWS_EC2_METADATA_DISABLED": "true: the machine's role is not asked for.",
    "GOOGLE_APPLICATION_CREDENTIALS": "The file with credentials for Google Cloud Storage.",
    "GOOGLE_SERVICE_ACCOUNT_KEY": "The key of a service account itself, as JSON.",
    "CLOUDSDK_CONFIG": "Where gcloud keeps its files; ~/.config/gcloud where not given.",
    "STORAGE_EMULATOR_HOST": "An emulator of Google Cloud Storage, which is asked without credentials.",
    "AZURE_STORAGE_ACCOUNT": "The storage account of az:// containers.",
    "AZURE_STORAGE_KEY": "The key of that account.",
    "AZURE_STORAGE_SAS_TOKEN": "A shared access signature instead of a key.",
    "AZURE_STORAGE_CONNECTION_STRING": "Account, key and endpoint in one.",
    "AZURE_STORAGE_SERVICE_ENDPOINT": "The server of az:// containers that say none.",
    "AZURE_CLIENT_ID": "A service principal, with AZURE_TENANT_ID and AZURE_CLIENT_SECRET; or a workload's identity.",
    "AZURE_TENANT_ID": "The tenant of that principal.",
    "AZURE_CLIENT_SECRET": "The secret of that principal.",
    "AZURE_FEDERATED_TOKEN_FILE": "The token of a workload's identity, as Kubernetes gives it.",
    "AZURE_AUTHORITY_HOST": "Who gives out tokens of such identities.",
    "AZURE_CONFIG_DIR": "Where az keeps its files; ~/.azure where not given.",
}
"""Those of the tools of object stores -> what they are heeded for."""

VARIABLES = {
    "SOURCE_DATE_EPOCH": "Seconds since 1970: the time that new commits get instead of now.",
    "REGISTRY_AUTH_FILE": "The file with passwords of registries, looked into first.",
    "DOCKER_CONFIG": "Directory of Docker's config.json, looked into last; ~/.docker where not given.",
    "SSL_CERT_FILE": "Certificate authorities to trust besides the system's.",
    "HTTPS_PROXY": "Proxy for registries; also in small letters.",
    "HTTP_PROXY": "Proxy for registries over plain HTTP; also in small letters.",
    "NO_PROXY": "Hosts that are reached without a proxy; also in small letters.",
    "XDG_CONFIG_HOME": "Where a user's settings and passwords are; ~/.config where not given.",
    "XDG_DATA_HOME": "Where the store of anybody but root is; ~/.local/share where not given.",
    "XDG_RUNTIME_DIR": "Where the mount state and the passwords of a login are; /run/user/UID where not given.",
    "HOME": "Where those directories are that are not given.",
    "PATH": "Where podman and credential helpers are found.",
    "SHELL": "The shell that 'stratum shell' starts; /bin/sh where not given.",
    "CONTAINER_HOST": "The Podman service to use instead of the podman program alone.",
    "NO_COLOR": "Where it is set, tables and progress have no colours.",
    **STORE_VARIABLES,
}
"""Environment variable -> what it is heeded for; those of settings are in ``SETTINGS``."""

FILES = {
    "/etc/stratum/config.toml": "Settings. Only root may write it.",
    "$XDG_CONFIG_HOME/stratum/config.toml": "Settings of a user other than root; they win.",
    "/etc/stratum/policy.toml": "Which strata containers may mount, where, and who may ask for them.",
    "/var/lib/stratum": "The store of root (setting 'store').",
    "/run/stratum": "Mount state, sockets, mounts without a mountpoint (setting 'runtime_dir'); gone with a reboot.",
    "/etc/containers/oci/hooks.d/stratum-*.json": "The hook, for Podman and CRI-O; 'stratum hook install' writes it.",
    "/etc/containers/containers.conf.d/stratum-hooks.conf": "Where Podman looks for hooks; likewise.",
    "$XDG_CONFIG_HOME/containers/oci/hooks.d/stratum-*.json": "The hook of a user's Podman; 'stratum hook install' by"
    " that user writes it.",
    "$XDG_CONFIG_HOME/containers/containers.conf.d/stratum-hooks.conf": "Where that Podman looks for hooks; likewise.",
}
"""File or directory -> what is in it."""


@frozen
class PlaceSettings:
    """What the settings say of one object store, None where they say nothing.

    ``profile`` is one of the AWS tools' files, ``credentials_file`` one of the form that the store's own tools read,
    ``account`` an Azure storage account. ``anonymous``: no credentials are sent. ``unsafe_concurrent``: it may be
    written to, also where it heeds no conditions.
    """

    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    credentials_file: str | None = None
    account: str | None = None
    anonymous: bool = False
    unsafe_concurrent: bool = False


@frozen
class Config:
    """The settings in force. ``lazy`` is whether a pull that is not told is lazy. ``environment`` is the environment
    they were read from, for programs started with it.

    ``cache_max`` (bytes, ``NO_LIMIT`` for none), ``cache_min_free`` (percent) and ``cache_images`` (bytes, likewise)
    are None where nobody set them: then what is noted in the store counts; so is ``history_max``, and then a tenth of
    the file system counts.
    """

    store: Path
    runtime_dir: Path
    registry: str | None
    insecure_registries: tuple[str, ...]
    token_realms: Mapping[str, str]
    lazy: bool
    prefetch: str
    jobs: int
    environment: Mapping[str, str]
    cache_max: int | None = None
    cache_min_free: int | None = None
    cache_images: int | None = None
    cache_verified_hours: int = 6
    history_max: int | None = None
    history_events: str = "auto"
    user_mounts: str = "auto"
    places: Mapping[str, PlaceSettings] = MappingProxyType({})


_CARRIED = {
    "DOCKER_CONFIG",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_FILE",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
}


def carried(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that says how registries and object stores are reached: for who fetches later, in
    another process. There are secrets in it: it is kept where root alone can read, and gone with a reboot."""
    return {
        name: value
        for name, value in environment.items()
        if name.upper() in _CARRIED
        or name in STORE_VARIABLES
        or (name.startswith("STRATUM_") and any(name == each.env for each in SETTINGS))
    }


def load_config(environ: Mapping[str, str] | None = None, **overrides: str | None) -> Config:
    """Read the settings; ``overrides`` are command-line options by key (None where not given).

    Raises ``UsageError`` for an unreadable file, an unknown key or a value of the wrong form.
    """
    env = dict(os.environ if environ is None else environ)
    values = _file_values(SYSTEM_CONFIG)
    if not owns_system():
        values.update(_file_values(in_home(env, "XDG_CONFIG_HOME", ".config") / "stratum" / "config.toml"))
    for setting in SETTINGS:
        if env.get(setting.env):
            values[setting.key] = env[setting.env]
        override = overrides.get(setting.key)
        if override is not None:
            values[setting.key] = override
    return Config(
        store=_path(values.get("store"), "store") or _default_store(env),
        runtime_dir=_path(values.get("runtime_dir"), "runtime_dir") or _default_runtime_dir(env),
        registry=values.get("registry") or None,
        insecure_registries=tuple(h.strip() for h in values.get("insecure_registries", "").split(",") if h.strip()),
        token_realms=_pairs(values.get("token_realms", ""), "token_realms"),
        lazy=_choice(values.get("pull"), "pull", PULLS) == "lazy",
        prefetch=_choice(values.get("prefetch") or "profile", "prefetch", PREFETCHES),
        jobs=_count(values.get("jobs")),
        environment=env,
        cache_max=_optional(parse_bytes, values.get("cache_max"), "cache_max"),
        cache_min_free=_optional(parse_percent, values.get("cache_min_free"), "cache_min_free"),
        cache_images=_optional(parse_bytes, values.get("cache_images"), "cache_images"),
        history_max=_optional(parse_bytes, values.get("history_max"), "history_max"),
        cache_verified_hours=_hours(values.get("cache_verified_hours")),
        history_events=_choice(values.get("history_events"), "history_events", EVENTS),
        user_mounts=_choice(values.get("user_mounts"), "user_mounts", USER_MOUNTS),
        places=_places(values.get("places", "")),
    )


def is_completing() -> bool:
    """Whether a shell asks which words could come next, instead of having a verb run."""
    return bool(os.environ.get("_STRATUM_COMPLETE"))


def add_to_environment(variables: Mapping[str, str]) -> None:
    """Give programs that are started from now on these variables too."""
    os.environ.update(variables)


def _file_values(path: Path) -> dict[str, str]:
    owners = system_owners() if path == SYSTEM_CONFIG else frozenset({0})
    data = read_trusted(path, _MAX_FILE, owners | {os.geteuid()})
    if data is None:
        return {}
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {path}: it is not UTF-8") from None
    try:
        from stratum import toml

        table = toml.loads(text)
    except ValueError as exc:
        raise UsageError(f"{path} is not valid TOML: {exc}") from None
    known = {setting.key for setting in SETTINGS}
    values = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}", hint=f"known keys: {', '.join(sorted(known))}")
        values[key] = _text(value, f"{path}: {key}", number=key in _NUMBERS)
    return values


def _text(value: object, where: str, *, number: bool) -> str:
    """A value of the file as an environment variable would have it."""
    if isinstance(value, dict) and where.endswith(": places"):
        import json  # hardly anybody has this setting

        return json.dumps(value, default=str)
    if isinstance(value, dict) and where.endswith("token_realms"):
        value = [f"{host}={url}" if isinstance(url, str) else url for host, url in value.items()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    if isinstance(value, str) or (number and type(value) is int):
        return str(value)
    raise UsageError(f"{where} must be {'a number' if number else 'text'}")


def _path(value: str | None, key: str) -> Path | None:
    if value is None:
        return None
    path = Path(value)
    if not path.is_absolute():
        path = Path.cwd() / path
    if "\0" in value:
        raise UsageError(f"{key}: a path cannot contain a NUL byte")
    return path


def _pairs(text: str, key: str) -> dict[str, str]:
    """HOST[:PORT] -> URL. ``UsageError`` where something is neither."""
    found = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        host, _, url = map(str.strip, pair.partition("="))
        if not host or not _is_url(url):
            raise UsageError(f"{key}: {pair!a} does not name a registry and a URL", hint=_PAIR)
        found[host.lower()] = url
    return found


def _places(text: str) -> Mapping[str, PlaceSettings]:
    """The tables of object stores. ``UsageError`` for a key that there is not, or a value of another kind."""
    if not text.strip():
        return MappingProxyType({})
    import json

    try:
        tables = json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError("places is not JSON", hint=_PLACE) from None
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise UsageError("places must be a table of tables", hint=_PLACE)
    return MappingProxyType({_place_name(name): _place(name, table) for name, table in tables.items()})


def _place_name(name: str) -> str:
    scheme, mark, bucket = name.partition("://")
    if scheme not in ("s3", "gs", "az") or not mark or not bucket or set(bucket) & set("/:?@"):
        raise UsageError(f"places: {quoted(name)} does not name an object store", hint=_PLACE)
    return name


def _place(name: str, table: Mapping[str, object]) -> PlaceSettings:
    found: dict[str, str | bool] = {}
    for key, value in table.items():
        kind = _PLACE_KEYS.get(key)
        if kind is None:
            raise UsageError(
                f"places: {name} has the unknown key {quoted(key)}", hint=f"known keys: {', '.join(_PLACE_KEYS)}"
            )
        if not isinstance(value, kind) or not isinstance(value, (str, bool)) or not str(value).isprintable():
            raise UsageError(f"places: {key} of {name} must be {'true or false' if kind is bool else 'text'}")
        found[key] = value
    return PlaceSettings(**found)  # type: ignore[arg-type]  # each is of the kind that its field has, as was seen


def _is_url(text: str) -> bool:
    from urllib.parse import urlsplit  # hardly anybody has this setting

    try:
        parts = urlsplit(text)
        port = parts.port  # or its error
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None and port != 0


_PLACE_KEYS = {
    "endpoint": str,
    "region": str,
    "profile": str,
    "credentials_file": str,
    "account": str,
    "anonymous": bool,
    "unsafe_concurrent": bool,
}
_PLACE = 'write it as [places."s3://BUCKET"] with lines such as endpoint = "https://HOST"'
_PAIR = 'write it as token_realms = { "registry.example.com" = "https://gitlab.example.com" }'


_NUMBERS = {"jobs", "cache_max", "cache_images", "history_max", "cache_min_free", "cache_verified_hours"}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_bytes(text: str, what: str) -> int:
    """A number of bytes: ``123``, ``50G``, ``1.5 TiB`` (by 1024), ``NO_LIMIT`` for ``none``. ``UsageError``."""
    word = text.strip().lower()
    if word == "none":
        return NO_LIMIT
    word = word.removesuffix("ib") if word.endswith("ib") else word.removesuffix("b")
    unit = word[-1:] if word[-1:] in ("k", "m", "g", "t") else ""
    number, _, fraction = word.removesuffix(unit).strip().partition(".")
    digits = number + fraction
    if not (number and digits.isascii() and digits.isdecimal() and len(digits) <= 19):
        raise UsageError(f"{what} must be a number of bytes such as 50G, or none, not {quoted(text)}")
    return min(int(int(digits) * _UNITS[unit] // 10 ** len(fraction)), NO_LIMIT)


def parse_percent(text: str, what: str) -> int:
    """A whole number from 0 to 99, with or without a percent sign. ``UsageError``."""
    word = text.strip().removesuffix("%").strip()
    if not (word.isascii() and word.isdecimal() and len(word) <= 2):
        raise UsageError(f"{what} must be a percentage from 0 to 99, not {quoted(text)}")
    return int(word)


def _optional(parse: Callable[[str, str], int], value: str | None, what: str) -> int | None:
    return parse(value, what) if value else None


def _hours(value: str | None) -> int:
    if not value:
        return 6
    if not (value.isascii() and value.isdecimal() and len(value) <= 4):
        raise UsageError(f"cache_verified_hours must be a number of hours up to 9999, not {quoted(value)}")
    return int(value)


def _choice(value: str | None, key: str, choices: tuple[str, ...]) -> str:
    """``value``, by default the first of ``choices``."""
    if value is None:
        return choices[0]
    if value not in choices:
        raise UsageError(f"{key} must be one of {', '.join(choices)}, not {value[:80]!r}")
    return value


def _count(value: str | None) -> int:
    if value is None:
        return os.cpu_count() or 1
    if not value.isdecimal() or not 1 <= int(value) <= 1024:
        raise UsageError(f"jobs must be a number from 1 to 1024, not {value!r}")
    return int(value)


def _default_store(env: Mapping[str, str]) -> Path:
    if owns_system():
        return Path("/var/lib/stratum")
    return in_home(env, "XDG_DATA_HOME", ".local/share") / "stratum"


def in_home(env: Mapping[str, str], variable: str, place: str) -> Path:
    """The directory that ``variable`` names or, where that is none, ``place`` in the home directory: HOME or, where
    somebody took that away, that of the user's account."""
    named, home = env.get(variable, ""), env.get("HOME", "")
    if os.path.isabs(named):
        return Path(named)
    if not os.path.isabs(home):
        import pwd

        try:
            home = pwd.getpwuid(outer_uid()).pw_dir
        except KeyError:
            home = "/"
    return Path(home, place)


def _default_runtime_dir(env: Mapping[str, str]) -> Path:
    if owns_system():
        return Path("/run/stratum")
    user = outer_uid()
    named, login = env.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"
    parent = next(filter(_may_be_own, (named, login)), None)
    return Path(parent, "stratum") if parent else Path(f"/tmp/stratum-{user}")  # noqa: S108  (whose it is, is checked)


def _may_be_own(path: str) -> bool:
    """Whether a directory is this user's, or one can be made there: ``su`` leaves somebody else's in the environment,
    and without a login there is none."""
    if not os.path.isabs(path):
        return False
    try:
        return os.stat(path).st_uid == os.geteuid()
    except FileNotFoundError:
        return os.access(os.path.dirname(path), os.W_OK)
    except OSError:
        return False
