"""``stratum serve`` and its clients: our own, Podman, skopeo, oras, and one that tries everything else."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.hostile_registry import make_certificate
from tests.e2e.podman_env import PodmanEnv
from tests.support.capabilities import program
from tests.support.command import Command
from tests.support.served import Asking, Served, served, write_users

pytestmark = pytest.mark.root
NOISE = random.Random(5).randbytes(3_000_000)
ANNA = ("anna", "secret")
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def commit(cli: Command, tmp_path: Path) -> str:
    """The commit ``app:v1``, whose packs have objects of all sizes."""
    tree = tmp_path / "tree"
    for number in range(40):
        path = tree / str(number % 7) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(NOISE[number * 1000 : number * 1000 + 100 * number**2])
    (tree / "large").write_bytes(NOISE)
    return cli.ok("import", "--bare", tree, "app:v1")


@pytest.fixture
def everything(cli: Command, commit: str, tmp_path: Path) -> Iterator[Served]:
    """A server that anna may push to and delete from, and that anybody may read from."""
    users = write_users(tmp_path / "users", anna="secret")
    with served(cli, tmp_path, "--htpasswd", users, "--anonymous-read", "--write", "--delete") as running:
        yield running


def run(name: str, *args: str | Path, fails: bool = False) -> str:
    done = subprocess.run([program(name), *args], capture_output=True, check=False, timeout=120)
    text = done.stdout.decode() + done.stderr.decode()
    assert (done.returncode != 0) == fails, f"{name} {args}: {text}"
    return text


def elsewhere(cli: Command, tmp_path: Path) -> Command:
    """The command with another store."""
    return Command(tmp_path / "other", cli.runtime_dir)


def used(store: Path) -> int:
    """Bytes of all files of a store."""
    return sum(path.stat().st_size for path in store.rglob("*") if path.is_file())


def unnamed(server: Served) -> int:
    """How many files without names a server has open."""
    count = 0
    for fd in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # of a connection that has ended
            count += os.readlink(fd).endswith("(deleted)")
    return count


def digest(data: bytes, kind: str = "sha256") -> str:
    return f"{kind}:{hashlib.new(kind, data).hexdigest()}"


def test_our_own_client_pulls_and_pushes_and_nothing_is_stored_twice(
    cli: Command, commit: str, everything: Served, tmp_path: Path
) -> None:
    other = elsewhere(cli, tmp_path)
    before = used(cli.store)
    assert other.ok("pull", f"{everything.host}/app:v1") == commit
    other.ok("verify", "app:v1")
    assert used(cli.store) - before < 100_000
    (tmp_path / "tree" / "new").write_text("new")
    pushed = other.ok("import", "--bare", tmp_path / "tree", "app:v2")
    refused = other("push", "app:v2", f"{everything.host}/app:v2")
    assert refused.code == 1
    assert "password" in refused.stderr
    logins = tmp_path / "logins.json"
    env = {"REGISTRY_AUTH_FILE": str(logins)}
    other.ok("login", everything.host, "-u", "anna", "--password-stdin", stdin="secret\n", env=env)
    other.ok("push", "app:v2", f"{everything.host}/app:v2", env=env)
    assert cli.ok("show", "app:v2", "--format", "json").find(pushed) > 0
    assert cli.ok("cat", "app:v2", "/new") == "new"
    assert "anna" in cli.ok("log", "--reflog", "app")
    assert everything.process.poll() is None


def test_oras_skopeo_and_podman_push_and_pull_any_artifact(
    everything: Served, cli: Command, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, oras, login = everything.host, "oras", ["-u", "anna", "-p", "secret", "--plain-http"]
    (tmp_path / "a.bin").write_bytes(NOISE[:100_000])
    (tmp_path / "s.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    run(oras, "push", *login, f"{host}/art/x:v1", "--artifact-type", "application/x.test", "a.bin:text/plain")
    run(oras, "attach", *login, f"{host}/art/x:v1", "--artifact-type", "application/x.sig", "s.json:application/json")
    run(oras, "pull", "--plain-http", f"{host}/art/x:v1", "-o", "back")
    assert (tmp_path / "back/a.bin").read_bytes() == NOISE[:100_000]
    assert "application/x.sig" in run(oras, "discover", "--plain-http", f"{host}/art/x:v1")
    assert run(oras, "repo", "ls", "--plain-http", host).split() == ["app", "art/x"]
    run(oras, "push", "--plain-http", f"{host}/art/x:v2", "a.bin", fails=True)
    run(oras, "manifest", "delete", "-f", *login, f"{host}/art/x:v1")
    assert "v1" not in run(oras, "repo", "tags", "--plain-http", f"{host}/art/x")

    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{host}/app:v1", "oci:layout:v1")
    assert elsewhere(cli, tmp_path).ok("pull", f"oci:{tmp_path}/layout:v1") == commit
    to = ["--dest-tls-verify=false", "--dest-creds", "anna:secret"]
    run("skopeo", "copy", *to, "oci:layout:v1", f"docker://{host}/app:again")
    assert cli.json("show", "app:again")["commit"]["metadata_hash"] == commit
    run("skopeo", "copy", "--dest-tls-verify=false", "oci:layout:v1", f"docker://{host}/app:no", fails=True)
    run("skopeo", "delete", "--tls-verify=false", "--creds", "anna:secret", f"docker://{host}/art/x:none", fails=True)

    with PodmanEnv() as podman:
        target = f"{host}/images/busybox:1"
        podman.podman("push", "--tls-verify=false", "--creds", "anna:secret", podman.image, target)
        podman.podman("rmi", "--force", podman.image)
        podman.podman("pull", "--tls-verify=false", target)
        assert podman.run("--rm", target, "echo", "here").stdout.strip() == "here"


def test_chunks_mounts_ranges_referrers_and_pages_as_the_specification_has_them(everything: Served) -> None:
    ask, data = everything, NOISE[:1000]
    begun = ask("POST", "/v2/raw/blobs/uploads/", user=ANNA)
    assert (begun.status, begun.headers["Range"]) == (202, "0-0")
    place = begun.headers["Location"]
    assert ask("PATCH", place, data[:600], user=ANNA, Content_Range="0-599").headers["Range"] == "0-599"
    wrong = ask("PATCH", place, data[700:], user=ANNA, Content_Range="700-999")
    assert (wrong.status, wrong.headers["Range"], wrong.headers["Location"]) == (416, "0-599", place)
    assert ask("GET", place, user=ANNA).headers["Range"] == "0-599"
    assert ask("PATCH", place, iter([data[600:700], data[700:900]]), user=ANNA).headers["Range"] == "0-899"
    assert ask("PUT", f"{place}?digest={digest(data)}", data[900:], user=ANNA).status == 201
    assert ask("PUT", f"{place}?digest={digest(data)}", user=ANNA).code == "BLOB_UPLOAD_UNKNOWN"
    blob = f"/v2/raw/blobs/{digest(data)}"
    assert ask("GET", blob).body == data
    part = ask("GET", blob, Range="bytes=-10")
    assert (part.status, part.body, part.headers["Content-Range"]) == (206, data[-10:], "bytes 990-999/1000")
    assert ask("GET", blob, Range="bytes=1000-").headers["Content-Range"] == "bytes */1000"
    head = ask("HEAD", blob)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, "1000", b"")
    assert ask("GET", blob, If_None_Match=head.headers["ETag"]).status == 304

    assert ask("POST", f"/v2/new/blobs/uploads/?mount={digest(data)}&from=raw", user=ANNA).status == 201
    assert ask("POST", f"/v2/new/blobs/uploads/?mount={digest(b'?')}&from=raw", user=ANNA).status == 202
    assert ask("POST", f"/v2/new/blobs/uploads/?digest={digest(b'{}', 'sha512')}", b"{}", user=ANNA).status == 201
    assert ask("POST", f"/v2/new/blobs/uploads/?digest={digest(b'{')}", b"{}", user=ANNA).code == "DIGEST_INVALID"

    def manifest(**more: object) -> bytes:
        config = {"mediaType": "application/x", "digest": digest(data), "size": 1000}
        return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], **more}).encode()

    first = manifest()
    pushed = ask("PUT", "/v2/raw/manifests/1", first, user=ANNA, Content_Type=MANIFEST)
    assert (pushed.status, pushed.headers["Location"]) == (201, f"/v2/raw/manifests/{digest(first)}")
    assert ask("PUT", "/v2/other/manifests/1", first, user=ANNA, Content_Type=MANIFEST).code == "MANIFEST_BLOB_UNKNOWN"
    assert ask("PUT", "/v2/raw/manifests/2", b"{", user=ANNA, Content_Type=MANIFEST).code == "MANIFEST_INVALID"
    assert ask("PUT", "/v2/raw/manifests/2", b" " * (5 << 20), user=ANNA, Content_Type=MANIFEST).status == 413
    subject = {"mediaType": MANIFEST, "digest": digest(first), "size": len(first)}
    signed = manifest(subject=subject, artifactType="application/sig")
    assert ask(
        "PUT", f"/v2/raw/manifests/{digest(signed)}?tag=a&tag=b", signed, user=ANNA, Content_Type=MANIFEST
    ).headers["OCI-Subject"] == digest(first)
    found = ask("GET", f"/v2/raw/referrers/{digest(first)}")
    assert [each["digest"] for each in found.json["manifests"]] == [digest(signed)]
    assert found.headers["Content-Type"] == INDEX
    filtered = ask("GET", f"/v2/raw/referrers/{digest(first)}?artifactType=other")
    assert (filtered.json["manifests"], filtered.headers["OCI-Filters-Applied"]) == ([], "artifactType")

    page = ask("GET", "/v2/raw/tags/list?n=2")
    assert (page.json["tags"], page.headers["Link"]) == (["1", "a"], '</v2/raw/tags/list?n=2&last=a>; rel="next"')
    assert ask("GET", "/v2/raw/tags/list?n=2&last=a").json["tags"] == ["b"]
    assert ask("DELETE", "/v2/raw/manifests/a", user=ANNA).status == 202
    assert ask("DELETE", f"/v2/raw/manifests/{digest(signed)}", user=ANNA).status == 202
    assert ask("GET", "/v2/raw/tags/list").json["tags"] == ["1"]
    assert ask("GET", f"/v2/raw/referrers/{digest(first)}").json["manifests"] == []
    assert ask("DELETE", f"/v2/raw/blobs/{digest(data)}", user=ANNA).status == 409  # the manifest is of it
    assert ask("DELETE", f"/v2/raw/manifests/{digest(first)}", user=ANNA).status == 202
    assert ask("DELETE", f"/v2/raw/blobs/{digest(data)}", user=ANNA).status == 202


def test_who_may_not_is_told_nothing(cli: Command, commit: str, tmp_path: Path) -> None:
    users = write_users(tmp_path / "users", anna="secret")
    with served(cli, tmp_path, "--htpasswd", users) as ask:
        answers = []
        for path in ("app/manifests/v1", "nope/manifests/v1", "app/tags/list", "nope/tags/list", "_catalog", ""):
            answer = ask("GET", f"/v2/{path}")
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")
            answers.append((answer.status, answer.body, sorted(answer.headers)))
        assert answers == [answers[0]] * len(answers)
        assert answers[0][0] == 401
        assert ask("GET", "/v2/app/manifests/v1", user=ANNA).status == 200
        for method, path in (("POST", "blobs/uploads/"), ("PUT", "manifests/v2"), ("DELETE", "manifests/v1")):
            assert ask(method, f"/v2/app/{path}", user=ANNA).status in (403, 405)
        write_users(users, bert="secret")
        assert ask("GET", "/v2/app/manifests/v1", user=ANNA).status == 401
    assert cli.ok("list", "--format", "json").count('"v2"') == 0


def test_pictures_of_a_page_are_never_what_somebody_pushed(everything: Served) -> None:
    """What others push is given out in a way that no browser takes for a page of this server."""
    evil = b"<script>alert(1)</script>"
    assert everything("POST", f"/v2/x/blobs/uploads/?digest={digest(evil)}", evil, user=ANNA).status == 201
    answer = everything("GET", f"/v2/x/blobs/{digest(evil)}")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = everything("PUT", "/v2/x/manifests/1", evil, user=ANNA, Content_Type="text/html")
    assert page.status == 400


def test_tls_and_a_certificate_that_is_renewed(cli: Command, commit: str, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    options = ["--tls-cert", certificate, "--tls-key", key]
    with served(cli, tmp_path, *options, context=ssl.create_default_context(cafile=certificate)) as ask:
        assert ask("GET", "/v2/app/tags/list").json["tags"] == ["v1"]
        make_certificate(tmp_path)
        ask.process.send_signal(signal.SIGHUP)
        renewed = Asking(ask.host, ssl.create_default_context(cafile=certificate))
        while "the certificate was read anew" not in ask.told():
            assert ask.process.poll() is None
        assert renewed("GET", "/v2/app/tags/list").status == 200


def test_two_hundred_clients_at_once_and_a_killed_server(cli: Command, commit: str, tmp_path: Path) -> None:
    """All get what they ask for, in memory that does not grow with what they pull; an upload goes on after a kill."""
    options = ["--write", "--insecure-anonymous-write"]
    with served(cli, tmp_path, *options) as ask:
        assert unnamed(ask) == 0
        layers = ask("GET", "/v2/app/manifests/v1").json["layers"]
        packs = [layer for layer in layers if layer["size"] > 1_000_000] or layers
        before, wrong = ask.memory(), []

        def pull(number: int) -> None:
            layer = packs[number % len(packs)]
            answer = ask("GET", f"/v2/app/blobs/{layer['digest']}")
            if digest(answer.body) != layer["digest"]:
                wrong.append((number, answer.status))

        threads = [threading.Thread(target=pull, args=(number,)) for number in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert ask.memory() - before < 256 << 20
        assert unnamed(ask) == len(packs)
        place = ask("POST", "/v2/raw/blobs/uploads/").headers["Location"]
        assert ask("PATCH", place, NOISE[:500_000]).status == 202
        ask.process.kill()
        ask.process.wait()
    with served(cli, tmp_path, *options) as ask:
        assert ask("GET", place).headers["Range"] == "0-499999"
        assert ask("PUT", f"{place}?digest={digest(NOISE)}", NOISE[500_000:]).status == 201
        assert ask("GET", f"/v2/raw/blobs/{digest(NOISE)}").body == NOISE


@pytest.mark.parametrize("encrypted", [False, True])
def test_any_range_is_the_same_however_it_is_sent(cli: Command, commit: str, tmp_path: Path, encrypted: bool) -> None:
    """Made for one, kept for several, out of one large object, and pushed: by the kernel, and encrypted."""
    large = tmp_path / "large"
    large.mkdir()
    (large / "object").write_bytes(NOISE * 6)
    cli.ok("import", "--bare", large, "app:large")
    options, context = ["--write", "--insecure-anonymous-write"], None
    if encrypted:
        certificate, key = make_certificate(tmp_path)
        options += ["--tls-cert", str(certificate), "--tls-key", str(key)]
        context = ssl.create_default_context(cafile=certificate)
    with served(cli, tmp_path, *options, context=context) as ask:
        assert ask("POST", f"/v2/app/blobs/uploads/?digest={digest(NOISE)}", NOISE).status == 201
        blobs = [
            layer["digest"]
            for tag in ("v1", "large")
            for layer in ask("GET", f"/v2/app/manifests/{tag}").json["layers"]
        ]
        for name in (digest(NOISE), *blobs):
            path = f"/v2/app/blobs/{name}"
            whole = [ask("GET", path).body for _ in range(3)]
            assert [digest(each) for each in whole] == [name] * 3
            size = len(whole[0])
            for start, end in (sorted(random.Random(name).choices(range(size + 1), k=2)) for _ in range(8)):
                if start < end:
                    assert ask("GET", path, Range=f"bytes={start}-{end - 1}").body == whole[0][start:end]
        assert unnamed(ask) == 1
        assert ask.told() == ask.told()[:1]
    with served(cli, tmp_path, "--cache", "0") as ask:
        for _ in range(3):
            assert [digest(ask("GET", f"/v2/app/blobs/{name}").body) for name in blobs] == blobs
        assert unnamed(ask) == 0
