"""A token server as the distribution registry trusts it: signed JSON web tokens for whoever knows the password."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

ISSUER, SERVICE = "tests", "registry"


class TokenServer:
    """Runs for the length of a block. ``asked`` is (user or None, scopes) of every request for a token."""

    def __init__(self, directory: Path, user: str, password: str) -> None:
        directory.mkdir()
        self.certificate, self._key = directory / "tokens.pem", directory / "tokens.key"
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"]
        subprocess.run([*command, "-keyout", self._key, "-out", self.certificate], check=True, capture_output=True)
        self._user = user
        self._password = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.asked: list[tuple[str | None, tuple[str, ...]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = server._answer(self.path, self.headers.get("Authorization"))
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def __enter__(self) -> TokenServer:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str, password: str | None) -> bytes:
        """A token for all that is asked for; for strangers one that allows nothing."""
        scopes = tuple(parse_qs(urlsplit(path).query).get("scope", ()))
        known = password == self._password
        self.asked.append((self._user if known else None, scopes))
        access = []
        for scope in scopes if known else ():
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": self._user, "aud": SERVICE, "nbf": now - 5, "exp": now + 300, "iat": now}
        der = subprocess.run(
            ["openssl", "x509", "-in", self.certificate, "-outform", "DER"], check=True, capture_output=True
        ).stdout
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der).decode()]}
        signed = b".".join(_encoded(json.dumps(part).encode()) for part in (header, {**claims, "access": access}))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._key], input=signed, check=True, capture_output=True
        ).stdout
        return json.dumps({"token": (signed + b"." + _encoded(signature)).decode()}).encode()


def _encoded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
