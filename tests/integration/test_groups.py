"""The bridge's check of groups: a file, FASJSON and LDAP, each really asked; and no answer."""

from __future__ import annotations

import contextlib
import http.server
import json
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from sigul_stack.bridge.groups import FASJSON, LDAP, GroupFile, Groups, NotInGroup, SourceFailed
from sigul_stack.config.bridge import GroupSettings
from sigul_stack.errors import ConfigurationError
from tests.koji_hub import Certificates, KojiHub, gssapi_stand_in
from tests.site import Site, free_port, wait_until

from .commands_support import ADMIN, done, failure

pytestmark = pytest.mark.once("HTTP and LDAP in Python")

SECONDS = 2.0
UNKNOWN = "who is in the required group cannot be found out just now; the bridge's log says why"


# -------------------------------------------------------------------------------------- FASJSON


SPEC = {
    "swagger": "2.0",
    "info": {"title": "FASJSON", "version": "1.0"},
    "basePath": "/v1",
    "produces": ["application/json"],
    "paths": {
        "/users/{username}/groups/": {
            "get": {
                "operationId": "list_user_groups",
                "tags": ["users"],
                "parameters": [
                    {"name": "username", "in": "path", "required": True, "type": "string"},
                    {"name": "page_size", "in": "query", "type": "integer"},
                    {"name": "page_number", "in": "query", "type": "integer"},
                ],
                "responses": {
                    "200": {
                        "description": "Success",
                        "schema": {
                            "type": "object",
                            "properties": {
                                "result": {
                                    "type": "array",
                                    "items": {"$ref": "#/definitions/Group"},
                                },
                                "page": {"type": "object"},
                            },
                        },
                    },
                    "404": {"description": "Not found"},
                },
            }
        }
    },
    "definitions": {"Group": {"type": "object", "properties": {"groupname": {"type": "string"}}}},
}


class Service(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A stand-in for FASJSON: its description and the one operation, in pages of one group."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.users: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.delay = threading.Event()
        self.delay.set()
        self.status = 200
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Peers that give up are what some tests are about."""

    def __exit__(self, *_: object) -> None:
        self.delay.set()
        self.shutdown()
        self.server_close()
        self._thread.join(10)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def log_message(self, format: str, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        service = self.server
        service.delay.wait(60)
        path, _, query = self.path.partition("?")
        if path == "/specs/v1.json":
            self._send(service.status, SPEC)
            return
        name = path.split("/")[3]
        service.asked.append((self.headers.get("Authorization", ""), name))
        if name not in service.users:
            self._send(404, {"message": f"User {name} not found"})
            return
        number = int(
            dict(part.split("=") for part in query.split("&") if part).get("page_number", 1)
        )
        groups = service.users[name]
        page = {"page_number": number, "page_size": 1, "total_pages": len(groups)}
        rows = [{"groupname": group} for group in groups[number - 1 : number]]
        self._send(200, {"result": rows, "page": page})

    def _send(self, code: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def gssapi_package(directory: Path) -> str:
    """Stand-ins for requests-gssapi and gssapi; what belongs in PYTHONPATH."""
    found = gssapi_stand_in(directory)
    package = directory / "gssapi"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import exceptions\n"
        "class NameType:\n    kerberos_principal = 1\n"
        "def Name(text, kind):\n    return text\n"
        "class Credentials:\n"
        "    lifetime = 1\n"
        "    def __init__(self, name=None, usage=None):\n        self.name = name\n"
        "    def __str__(self):\n        return str(self.name)\n"
    )
    (package / "exceptions.py").write_text(
        "class GSSError(Exception):\n    pass\nclass ExpiredCredentialsError(GSSError):\n    pass\n"
    )
    text = (directory / "requests_gssapi" / "__init__.py").read_text()
    (directory / "requests_gssapi" / "__init__.py").write_text(
        text.replace(
            "principal=None, **_further", "principal=None, creds=None, **_further"
        ).replace("self.principal = principal", "self.principal = principal or creds")
    )
    return found


# ----------------------------------------------------------------------------------------- LDAP


class Slapd:
    """OpenLDAP's server on loopback, with a directory of its own: people and two groups."""

    BASE = "dc=example,dc=org"
    PASSWORD = "directory-pw"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / "data").mkdir()
        self._directory = directory
        self.certificates = Certificates(directory / "pki", "nobody")
        self.port, self.tls_port = free_port(), free_port()
        self.url = f"ldap://127.0.0.1:{self.port}"
        self.tls_url = f"ldaps://127.0.0.1:{self.tls_port}"
        self._start()

    def _start(self) -> None:
        schema = Path("/etc/ldap/schema")
        hub = self.certificates.hub
        config = self._directory / "slapd.conf"
        config.write_text(
            "".join(f"include {schema}/{name}.schema\n" for name in ("core", "cosine", "nis"))
            + "modulepath /usr/lib/ldap\nmoduleload back_mdb\n"
            f"TLSCACertificateFile {self.certificates.ca}\nTLSCertificateFile {hub}\n"
            f"TLSCertificateKeyFile {hub}\nTLSVerifyClient never\n"
            f"database mdb\nsuffix {self.BASE}\ndirectory {self._directory / 'data'}\n"
            f"rootdn cn=admin,{self.BASE}\nrootpw {self.PASSWORD}\n"
            'access to * by dn.base="cn=admin,dc=example,dc=org" read by * none\n'
        )
        content = (
            f"dn: {self.BASE}\nobjectClass: organization\nobjectClass: dcObject\n"
            "o: Example\ndc: example\n\n"
        )
        for group, users in {"signers": ["admin", "bob"], "odd": ["a*b"]}.items():
            content += (
                f"dn: cn={group},{self.BASE}\nobjectClass: posixGroup\ncn: {group}\n"
                "gidNumber: 1\n" + "".join(f"memberUid: {user}\n" for user in users) + "\n"
            )
        subprocess.run(
            ["/usr/sbin/slapadd", "-f", str(config)], input=content.encode(), check=True,
            timeout=60, capture_output=True,
        )  # fmt: skip
        self._log = (self._directory / "log").open("wb")
        self._process = subprocess.Popen(
            ["/usr/sbin/slapd", "-d", "0", "-f", str(config), "-h", f"{self.url} {self.tls_url}"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        wait_until(self._answers, 30, "an answer of slapd")

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._directory / "log").read_text()
        command = ["ldapwhoami", "-x", "-H", self.url]
        return subprocess.run(command, timeout=30, capture_output=True).returncode == 0

    def __enter__(self) -> Slapd:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()
        shutil.rmtree(self._directory)

    def lines(self, **further: str) -> str:
        """The [groups] section for it."""
        options = {
            "source": "ldap",
            "ldap-uri": self.url,
            "ldap-ca-file": str(self.certificates.ca),
            "ldap-base": self.BASE,
            "ldap-bind-dn": f"cn=admin,{self.BASE}",
            "ldap-bind-password": self.PASSWORD,
            "groups-timeout": str(SECONDS),
            **further,
        }
        return "".join(f"{name}: {value}\n" for name, value in options.items())


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    with Slapd(tmp_path_factory.mktemp("ldap") / "slapd") as server:
        yield server


# ------------------------------------------------------------------------------- a whole site


@contextlib.contextmanager
def site_with(template: Site, directory: Path, **extra: str) -> Iterator[Site]:
    """A running site whose bridge wants users to be in `signers`; `extra` by section."""
    site = Site.copy(template, directory / "site")
    sections = {"bridge": "required-fas-group: signers\n", **extra}
    site.extra = {"bridge": sections}
    site.configure()
    site.variables["PYTHONPATH"] = gssapi_package(directory / "stand-ins")
    with site.running():
        yield site


def no_cache(lines: str) -> str:
    return lines + "cache-time: 0\n"


def test_a_file(template: Site, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("# who may sign\nothers: bob\nsigners: alice  # alone\n")
    with site_with(template, tmp_path, groups=no_cache(f"source: file\nfile: {groups}\n")) as site:
        words = ["list-users"]
        line = failure(site, *words, secrets=[ADMIN])
        assert line == (
            "the bridge says: user 'admin' is not in the group 'signers', which this request needs"
        )
        groups.write_text("others: admin\nsigners: alice admin\n")
        assert done(site, *words, secrets=[ADMIN]) == b"admin\n"
        # It is the certificate that counts, not who somebody says to be.
        groups.write_text("signers: alice\n")
        done_by_alice = site.sigul(
            *words, secrets=[ADMIN], options=["-u", "alice"], code=1
        ).stderr.decode()
        assert "user 'admin' is not in the group" in done_by_alice
        for spoilt in ("signers\n", "signers: admin\nnonsense\n", None):
            if spoilt is None:
                groups.unlink()
            else:
                groups.write_text(spoilt)
            assert failure(site, *words, secrets=[ADMIN]) == f"the bridge says: {UNKNOWN}"
        assert "Groups cannot be looked up: " in site.processes[0].text
        # An empty file is no error, and holds nobody.
        groups.write_text("")
        assert "is not in the group" in failure(site, *words, secrets=[ADMIN])


def test_instances_have_groups_of_their_own(template: Site, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    groups.write_text("signers: admin\n")
    package = tmp_path / "package.rpm"
    package.write_bytes(b"not looked at")
    with KojiHub(tmp_path / "hub") as hub, site_with(
        template, tmp_path, groups=no_cache(f"source: file\nfile: {groups}\n"),
        koji=f"koji-instances: Main side\nkoji-config-main: {hub.configuration()}\n"
        "required-fas-group-main: main-signers\n",
    ) as site:  # fmt: skip
        words = ["sign-rpm", "-k", "Main", "k", str(package)]
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        line = failure(site, *words, secrets=["k-pw"])
        assert "is not in the group 'main-signers'" in line
        groups.write_text("signers: admin\nmain-signers: admin\n")
        assert "The RPM file is corrupt" in failure(site, *words, secrets=["k-pw"])
        groups.write_text("main-signers: admin\n")
        assert "is not in the group 'signers'" in failure(site, *words, secrets=["k-pw"])


def test_fasjson(template: Site, tmp_path: Path) -> None:
    with Service() as service:
        lines = (
            f"source: fasjson\nfasjson-url: {service.url}\ngroups-timeout: {SECONDS}\n"
            "cache-time: 0\n"
        )
        extra = "required-fas-group: signers\nfas-user-name: sigul/bridge\n"
        with site_with(template, tmp_path, groups=lines, bridge=extra) as site:
            words = ["list-users"]
            refusal = "the bridge says: user 'admin' is not in the group"
            # Not known there; known; in the group, which is on the last page.
            assert failure(site, *words, secrets=[ADMIN]).startswith(refusal)
            service.users["admin"] = ["others", "more"]
            assert failure(site, *words, secrets=[ADMIN]).startswith(refusal)
            service.users["admin"] = ["others", "more", "signers"]
            assert done(site, *words, secrets=[ADMIN]) == b"admin\n"
            assert ("Negotiate sigul/bridge", "admin") in service.asked
            service.status = 500
            assert failure(site, *words, secrets=[ADMIN]) == f"the bridge says: {UNKNOWN}"
            service.status = 200
            service.delay.clear()
            assert failure(site, *words, secrets=[ADMIN]) == f"the bridge says: {UNKNOWN}"
            service.delay.set()
            assert done(site, *words, secrets=[ADMIN]) == b"admin\n"


def test_ldap(template: Site, slapd: Slapd, tmp_path: Path) -> None:
    with site_with(template, tmp_path, groups=slapd.lines()) as site:
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        config = site.client_configuration("alice", "alice")
        result = site.sigul("list-users", secrets=[ADMIN], config=config, code=1)
        assert "user 'alice' is not in the group 'signers'" in result.stderr.decode()


# ------------------------------------------------------------------------------------- sources


def settings(**given: Any) -> GroupSettings:
    return GroupSettings(**{"timeout": SECONDS, **given})


def directory_settings(slapd: Slapd, **given: Any) -> GroupSettings:
    from sigul_stack.secret import Secret

    usual = {
        "source": "ldap",
        "ldap_uri": slapd.url,
        "ldap_base": slapd.BASE,
        "ldap_ca_file": slapd.certificates.ca,
        "ldap_bind_dn": f"cn=admin,{slapd.BASE}",
        "ldap_bind_password": Secret(slapd.PASSWORD),
    }
    return settings(**{**usual, **given})


def test_ldap_in_particular(slapd: Slapd) -> None:
    from sigul_stack.secret import Secret

    for uri in (slapd.url, slapd.tls_url):
        source = LDAP(directory_settings(slapd, ldap_uri=uri))
        assert source.has("admin", "signers")
        assert not source.has("admin", "odd")
        assert not source.has("mallory", "signers")
        # No name means anything in the filter.
        assert not source.has("*", "signers")
        assert not source.has("adm*", "signers")
        assert not source.has("admin)(cn=signers", "signers")
        assert not source.has("{group}", "signers")
    for wrong in (
        {"ldap_bind_password": Secret("wrong")},
        {"ldap_uri": f"ldap://127.0.0.1:{free_port()}"},
        {"ldap_ca_file": slapd.certificates.client},
        {"ldap_base": "dc=none"},
        {"ldap_filter": "(broken"},
        # Without a name, this directory shows nothing, not even that it has the base.
        {"ldap_bind_dn": None},
    ):
        with pytest.raises(SourceFailed, match=r"^LDAP at "):
            LDAP(directory_settings(slapd, **wrong)).has("admin", "signers")


def test_an_ldap_server_that_says_nothing(slapd: Slapd) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"ldap://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(SourceFailed):
            LDAP(directory_settings(slapd, ldap_uri=uri)).has("admin", "signers")
        assert time.monotonic() - began < 10 * SECONDS


def test_fasjson_without_kerberos_is_a_failure() -> None:
    """The real libraries: there are no credentials here."""
    with Service() as service:
        with pytest.raises(SourceFailed, match=r"^FASJSON at "):
            FASJSON(service.url, None, SECONDS).has("admin", "signers")
        assert service.asked == []


class Counted:
    """A source that counts its questions."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: bool | None = True

    def has(self, user: str, group: str) -> bool:
        self.asked += 1
        if self.answer is None:
            raise SourceFailed("no")
        return self.answer


def test_answers_are_kept_for_a_while_and_failures_are_not() -> None:
    now = 0.0
    source = Counted()
    groups = Groups(settings(cache_time=60), source, clock=lambda: now)
    for _ in range(3):
        groups.check("u", "g")
    assert source.asked == 1
    groups.check("u", "h")
    groups.check("v", "g")
    assert source.asked == 3
    source.answer, now = False, 59.0
    groups.check("u", "g")
    now = 60.0
    for _ in range(2):
        with pytest.raises(NotInGroup):
            groups.check("u", "g")
    assert source.asked == 4
    source.answer, now = None, 200.0
    for _ in range(2):
        with pytest.raises(SourceFailed):
            groups.check("u", "g")
    assert source.asked == 6
    source.answer = True
    groups.check("u", "g")
    # A name that is none is not asked about.
    for name in ("", "a b", "a/b", "*", "ä", "x" * 256, "-x"):
        with pytest.raises(NotInGroup):
            groups.check(name, "g")
    assert source.asked == 7


def test_a_file_that_is_too_long(tmp_path: Path) -> None:
    path = tmp_path / "groups"
    path.write_text("#" * (1 << 20) + "\ng: u\n")
    with pytest.raises(SourceFailed, match="more than 1048576 bytes"):
        GroupFile(path).has("u", "g")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "set source in section"),
        ({"source": "file"}, "file is not set"),
        ({"source": "fasjson"}, "fasjson-url is not set"),
        ({"source": "ldap"}, "ldap-uri is not set"),
        ({"source": "ldap", "ldap_uri": "ldap://x"}, "ldap-base is not set"),
    ],
)
def test_a_source_that_is_not_configured(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        Groups(settings(**given))


def test_a_bridge_does_not_start_without_a_source(template: Site, tmp_path: Path) -> None:
    site = Site.copy(template, tmp_path / "site")
    site.extra = {"bridge": {"bridge": "required-fas-group: signers\n"}}
    site.configure()
    bridge = site.start("bridge")
    assert bridge.popen.wait(30) == 1
    assert "set source in section [groups]" in bridge.text
    site.stop_all()
