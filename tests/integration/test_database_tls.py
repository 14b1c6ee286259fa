"""A PostgreSQL server on another machine, as its name says: who it is has to be proven.

Needs the Debian packages `postgresql` and `util-linux`, and psycopg.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.commands_support import ADMIN, done
from tests.integration.test_database_postgresql import COMMAND_SECONDS, program, run
from tests.site import Site, free_port, module

pytestmark = pytest.mark.once("our own check; the client library comes with the wheel")

HOST = "db.example.org"
UNPROVEN = "it does not prove who it is, so who is between can read and change users"


@dataclass(frozen=True)
class Cluster:
    """A running server with TLS; `authority` is the file of its CA, `stranger` another's."""

    directory: Path
    port: int
    authority: Path
    stranger: Path

    def fresh(self, name: str) -> None:
        """Make an empty database."""
        with psycopg.connect(
            host=str(self.directory), port=self.port, user="postgres", dbname="postgres",
            autocommit=True, connect_timeout=10,
        ) as connection:  # fmt: skip
            connection.execute(f'CREATE DATABASE "{name}" OWNER sigul'.encode())


def certificate(name: str, directory: Path) -> None:
    """Make NAME.pem, which is a CA and a server's certificate for HOST, and NAME.key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    (directory / f"{name}.pem").write_bytes(made.public_bytes(pem))
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = directory / f"{name}.key"
    path.touch(0o600)
    path.write_bytes(plain)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Directly in /tmp: the path of a socket must be short, and the server's user must get there.
    directory = Path(tempfile.mkdtemp(prefix="sigul-pg-", dir="/tmp"))
    directory.chmod(0o755)
    for name in ("own", "stranger"):
        certificate(name, directory)
    if os.geteuid() == 0:
        for path in (directory, directory / "own.key"):
            shutil.chown(path, "postgres", "postgres")
    data, port = directory / "data", free_port()
    control = (program("pg_ctl"), "-D", str(data), "-t", str(COMMAND_SECONDS), "-w")
    try:
        run(program("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-sync")
        options = (
            f"-k {directory} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off -c ssl=on"
            f" -c ssl_cert_file={directory}/own.pem -c ssl_key_file={directory}/own.key"
        )
        run(*control, "-l", str(directory / "log"), "-o", options, "start")
        try:
            running = Cluster(directory, port, directory / "own.pem", directory / "stranger.pem")
            with psycopg.connect(
                host=str(directory), port=port, user="postgres", dbname="postgres",
                autocommit=True, connect_timeout=10,
            ) as connection:  # fmt: skip
                connection.execute("CREATE USER sigul")
            yield running
        finally:
            run(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory)


def with_database(site: Site, cluster: Cluster, name: str, query: str, *, strict: bool) -> None:
    """Configure a database of the cluster, under the name that only the certificate makes sure."""
    site.addresses = {**site.addresses, HOST: "127.0.0.1"}
    site.configure()
    conf = site.path("server.conf")
    lines = [line for line in conf.read_text().splitlines() if not line.startswith("database-path")]
    url = f"postgresql://sigul@{HOST}:{cluster.port}/{name}{query}"
    at = lines.index("[database]") + 1
    lines[at:at] = [f"database-url: {url}", *(["require-database-tls: yes"] if strict else [])]
    conf.write_text("\n".join(lines) + "\n")


def create(site: Site, code: int) -> str:
    """Make the tables; what was said."""
    server = str(site.path("server.conf"))
    return site.run(*module("server_create_db"), "-c", server, code=code).stderr.decode()


def test_a_database_that_proves_who_it_is(site: Site, cluster: Cluster) -> None:
    cluster.fresh("proven")
    query = f"?sslmode=verify-full&sslrootcert={cluster.authority}"
    with_database(site, cluster, "proven", query, strict=True)
    create(site, 0)
    site.run(
        *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch", "-n",
        site.admin, secrets=[ADMIN],
    )  # fmt: skip
    with site.running() as (_bridge, server):
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        assert UNPROVEN not in server.text


def test_a_database_of_another_ca_is_told_nothing(site: Site, cluster: Cluster) -> None:
    query = f"?sslmode=verify-full&sslrootcert={cluster.stranger}"
    with_database(site, cluster, "postgres", query, strict=True)
    assert "certificate verify failed" in create(site, 1)


@pytest.mark.parametrize("query", ["", "?sslmode=require", "?sslmode=verify-ca"])
def test_one_that_does_not_is_refused_at_new_sites(
    site: Site, cluster: Cluster, query: str
) -> None:
    with_database(site, cluster, "postgres", query, strict=True)
    said = create(site, 1)
    assert UNPROVEN in said
    assert "add sslmode=verify-full&sslrootcert=FILE" in said


def test_one_that_does_not_is_warned_of_at_existing_sites(site: Site, cluster: Cluster) -> None:
    cluster.fresh("unproven")
    with_database(site, cluster, "unproven", "", strict=False)
    create(site, 0)
    site.run(
        *module("server_add_admin"), "-c", str(site.path("server.conf")), "--batch", "-n",
        site.admin, secrets=[ADMIN],
    )  # fmt: skip
    with site.running() as (_bridge, server):
        assert done(site, "list-users", secrets=[ADMIN]) == b"admin\n"
        server.wait_for(UNPROVEN)
        told = site.run(
            *module("stack"), "doctor", "server", "-c", str(site.path("server.conf")), code=None
        ).stdout.decode()
        assert "sslmode is prefer" in told
