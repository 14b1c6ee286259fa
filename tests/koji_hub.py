"""A Koji hub for tests: XML-RPC over HTTP and HTTPS, the files beside it, in threads of the test's.

It keeps to what the real one does for the calls `getAPIVersion`, `sslLogin` (by certificate, or by
a stand-in for GSSAPI), `getRPM`, `getBuild`, `queryRPMSigs`, `addRPMSig` and `logout`, sessions and
faults included.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.server
import ipaddress
import itertools
import secrets
import socketserver
import ssl
import threading
import time
import xmlrpc.client
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import koji
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sigul_stack.formats.rpm_head import read_head
from sigul_stack.protocol.codec import run_parser

GENERIC, AUTH = 1000, 1002

#: A stand-in for the module that does Kerberos: what it would prove is said.
GSSAPI_STAND_IN = """
from __future__ import annotations
import requests.auth
__version__ = "1.4.0"
class HTTPSPNEGOAuth(requests.auth.AuthBase):
    def __init__(self, principal=None, **_further):
        self.principal = principal
    def __call__(self, request):
        request.headers["Authorization"] = f"Negotiate {self.principal}"
        return request
HTTPKerberosAuth = HTTPSPNEGOAuth
REQUIRED, OPTIONAL, DISABLED = 1, 2, 3
"""


def gssapi_stand_in(directory: Path) -> str:
    """Make the stand-in; what belongs in PYTHONPATH."""
    package = directory / "requests_gssapi"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(GSSAPI_STAND_IN)
    return str(directory)


class Certificates:
    """A CA, the hub's certificate and a client's, all as PEM files."""

    def __init__(self, directory: Path, client: str) -> None:
        directory.mkdir(parents=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Koji's CA")])
        self.ca = directory / "ca.pem"
        self.ca.write_bytes(self._issue(self._name, self._key, ca=True))
        self.hub = self._leaf(directory / "hub.pem", "127.0.0.1")
        self.client = self._leaf(directory / "client.pem", client)

    def _leaf(self, path: Path, name: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(self._issue(subject, key) + secret)
        return path

    def _issue(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, **usage),
                critical=True,
            )
            .add_extension(own, critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass
class Call:
    """A call that came: who made it (None: nobody is logged in), and for whom."""

    method: str
    arguments: tuple[Any, ...]
    user: str | None
    proxied: str | None


@dataclass
class State:
    """What the hub knows, and how it is to behave."""

    rpms: list[dict[str, Any]] = field(default_factory=list)
    builds: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    #: (RPM's number, key) → signature header.
    signatures: dict[tuple[int, str], bytes] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    #: Who may act for others.
    may_proxy: set[str] = field(default_factory=set)
    #: What to answer instead, by method; called with the usual answer.
    instead: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    #: Seconds before an answer, and between two pieces of a file.
    delay: float = 0
    trickle: float = 0


class KojiHub:
    """The hub. `url` and `plain_url` are its addresses over HTTPS and HTTP."""

    def __init__(self, directory: Path, client: str = "sigul-bridge") -> None:
        self.state = State()
        self.certificates = Certificates(directory, client)
        self.directory = directory
        self._numbers = itertools.count(100)
        self._sessions: dict[str, tuple[str, str, str | None]] = {}
        self._stopping = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificates.hub)
        context.load_verify_locations(self.certificates.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._servers = [_Server(self, None), _Server(self, context)]
        plain, secure = (server.server_address[1] for server in self._servers)
        self.plain_url, self.url = f"http://127.0.0.1:{plain}", f"https://127.0.0.1:{secure}"

    def __enter__(self) -> KojiHub:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        for server in self._servers:
            server.stop()

    def configuration(self, *, secure: bool = True, **further: str) -> Path:
        """A configuration file of Koji's for this hub."""
        url = self.url if secure else self.plain_url
        options = {
            "server": f"{url}/kojihub",
            "topurl": f"{self.plain_url}/kojifiles",
            "serverca": str(self.certificates.ca),
            "cert": str(self.certificates.client),
            "authtype": "ssl",
            **further,
        }
        path = self.directory / f"koji-{next(self._numbers)}.conf"
        lines = [f"{name} = {value}\n" for name, value in options.items() if value]
        path.write_text("[koji]\n" + "".join(lines))
        return path

    def add(self, package: Path, *, volume: str = "DEFAULT") -> str:
        """Have the hub know a package; its NEVRA, without an epoch."""
        content = package.read_bytes()
        with package.open("rb") as file:
            head = run_parser(read_head(), file.read)
        main = head.main
        digest = head.signature.blob(1004)
        assert digest is not None
        name, version, release = (str(main.string(tag)) for tag in (1000, 1001, 1002))
        arch = str(main.string(1022)) if 1044 in main else "src"
        build, number = next(self._numbers), next(self._numbers)
        self.state.builds[build] = {
            "id": build, "name": name, "version": version, "release": release,
            "volume_name": volume,
        }  # fmt: skip
        self.state.rpms.append(
            {
                "id": number, "name": name, "version": version, "release": release, "arch": arch,
                "epoch": main.integer(1003), "build_id": build, "payloadhash": digest.hex(),
                "size": len(content), "buildtime": 1, "external_repo_id": 0,
            }
        )  # fmt: skip
        nevra = f"{name}-{version}-{release}.{arch}"
        top = "" if volume == "DEFAULT" else f"/vol/{volume}"
        self.state.files[
            f"/kojifiles{top}/packages/{name}/{version}/{release}/{arch}/{nevra}.rpm"
        ] = content
        return nevra

    def called(self, method: str) -> list[Call]:
        """The calls of one method."""
        return [call for call in self.state.calls if call.method == method]

    # ------------------------------------------------------------------------------------ serving

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the hub's end."""
        self._stopping.wait(seconds)

    def answer(self, handler: _Handler, method: str, arguments: tuple[Any, ...]) -> Any:
        """Carry out one call. Raises `xmlrpc.client.Fault`."""
        named: dict[str, Any] = {}
        if arguments and isinstance(arguments[-1], dict) and arguments[-1].get("__starstar"):
            named = {key: value for key, value in arguments[-1].items() if key != "__starstar"}
            arguments = arguments[:-1]
        session = self._sessions.get(handler.headers.get("Koji-Session-Id", ""))
        if session is not None and session[0] != handler.headers.get("Koji-Session-Key"):
            raise xmlrpc.client.Fault(AUTH, "Invalid session or bad credentials")
        user, proxied = session[1:] if session else (None, None)
        self.state.calls.append(Call(method, (*arguments, named), user, proxied))
        usual = getattr(self, f"_{method}")(handler, user, *arguments, **named)
        instead = self.state.instead.get(method)
        return usual if instead is None else instead(usual)

    def _getAPIVersion(self, _handler: _Handler, _user: str | None) -> int:
        return 1

    def _sslLogin(
        self, handler: _Handler, _user: str | None, proxyuser: str | None = None
    ) -> dict[str, Any]:
        user = handler.proven()
        if not handler.path.endswith("/ssllogin") or user is None:
            raise xmlrpc.client.Fault(AUTH, "could not verify client: NONE")
        if proxyuser is not None and user not in self.state.may_proxy:
            raise xmlrpc.client.Fault(AUTH, f"{user} is not authorized to login other users")
        number, key = str(next(self._numbers)), secrets.token_hex(8)
        self._sessions[number] = (key, user, proxyuser)
        return {"session-id": int(number), "session-key": key, "header-auth": True}

    def _logout(self, handler: _Handler, user: str | None, session_id: object = None) -> None:
        if user is None:
            raise xmlrpc.client.Fault(GENERIC, "Not logged in")
        del self._sessions[handler.headers["Koji-Session-Id"]]

    def _getRPM(
        self, _handler: _Handler, _user: str | None, wanted: dict[str, Any]
    ) -> dict[str, Any] | None:
        for rpm in self.state.rpms:
            if all(rpm[part] == wanted[part] for part in ("name", "version", "release", "arch")):
                return rpm
        return None

    def _getBuild(
        self, _handler: _Handler, _user: str | None, number: int
    ) -> dict[str, Any] | None:
        return self.state.builds.get(number)

    def _queryRPMSigs(
        self, _handler: _Handler, _user: str | None, rpm_id: int, sigkey: str | None = None
    ) -> list[dict[str, Any]]:
        return [
            {
                "rpm_id": number,
                "sigkey": key,
                "sighash": hashlib.md5(header, usedforsecurity=False).hexdigest(),
            }
            for (number, key), header in self.state.signatures.items()
            if number == rpm_id and sigkey in (None, key)
        ]

    def _addRPMSig(self, _handler: _Handler, user: str | None, number: int, encoded: str) -> None:
        if user is None:
            raise xmlrpc.client.Fault(AUTH, "Operation requires the sign permission")
        header = base64.b64decode(encoded)
        raw = koji.RawHeader(header)
        (rpm,) = (row for row in self.state.rpms if row["id"] == number)
        if koji.hex_string(raw.get(1004)) != rpm["payloadhash"]:
            raise xmlrpc.client.Fault(GENERIC, "wrong md5 for signature header")
        key = koji.get_sighdr_key(header)
        if (number, key) in self.state.signatures:
            raise xmlrpc.client.Fault(GENERIC, f"Signature already exists for rpm {number}")
        self.state.signatures[number, key] = header


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def __init__(self, hub: KojiHub, context: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.context = context
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers that give up are what some tests are about."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(10)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def proven(self) -> str | None:
        """Who the peer is, by its certificate or the stand-in for GSSAPI."""
        kind, _, name = self.headers.get("Authorization", "").partition(" ")
        if kind == "Negotiate":
            return str(name)
        if isinstance(self.connection, ssl.SSLSocket):
            subject = (self.connection.getpeercert() or {}).get("subject", ())
            for ((what, value),) in subject:
                if what == "commonName":
                    return str(value)
        return None

    def log_message(self, format: str, *_arguments: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        hub = self.server.hub
        data = self.rfile.read(int(self.headers["Content-Length"]))
        hub.pause(hub.state.delay)
        arguments, method = xmlrpc.client.loads(data)
        try:
            answer = hub.answer(self, str(method), arguments)
            if isinstance(answer, bytes):
                body = answer
            else:
                body = xmlrpc.client.dumps((answer,), methodresponse=True, allow_none=True).encode()
        except xmlrpc.client.Fault as fault:
            body = xmlrpc.client.dumps(fault).encode()
        self._send(200, body, "text/xml")

    def do_GET(self) -> None:
        hub = self.server.hub
        hub.pause(hub.state.delay)
        content = hub.state.files.get(unquote(self.path))
        if content is None:
            self._send(404, b"not here", "text/plain")
        else:
            self._send(200, content, "application/x-rpm", hub.state.trickle)

    def _send(self, code: int, body: bytes, kind: str, trickle: float = 0) -> None:
        self.send_response(code)
        self.send_header("Content-EntryType", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not trickle:
            self.wfile.write(body)
            return
        end = time.monotonic() + 60
        for at in range(len(body)):
            if time.monotonic() > end:
                return
            self.wfile.write(body[at : at + 1])
            self.server.hub.pause(trickle)
