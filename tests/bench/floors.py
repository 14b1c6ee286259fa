"""The floors: what no implementation can undercut with the same tools, measured in the same run.

They are measured anew before each row and each curve, for a machine's speed drifts in minutes:
a figure stands beside what the machine could do just then.
"""

from __future__ import annotations

import datetime
import hashlib
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.bench.machine import cores
from tests.bench.measuring import median

MIB: Final = 1024**2
PYTHON, NSS, HANDSHAKE, RSA = "Python start", "NSS start", "handshake", "RSA-2048 signature"
SHA512, SHA256, AES = "SHA-512", "SHA-256", "AES-256-GCM"
#: Longest time of one step of a handshake.
_SECONDS: Final = 10.0

# What any client has to do with a database before it dials; it prints the seconds of that, for the
# difference of two processes' times would be their noise.
_NSS_START: Final = """
import sys, time
began = time.perf_counter()
from nss import nss
nss.set_password_callback(lambda slot, retry, word: word)
nss.nss_init("sql:" + sys.argv[1])
print(time.perf_counter() - began)
"""


class Floors:
    """The floors of one run. `database`: a client's, of NSS; `runs` of each short program."""

    def __init__(self, database: Path, runs: int) -> None:
        self._database = database
        self._runs = runs
        self._seen: list[dict[str, float]] = []

    def now(self) -> dict[str, float]:
        """Measure all of them."""
        self._seen.append(measure(self._database, self._runs))
        return self._seen[-1]

    @property
    def medians(self) -> dict[str, float]:
        """The median of each over the run so far."""
        return {name: statistics.median(self._all(name)) for name in self._seen[0]}

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the most of each over the run so far."""
        return {name: (min(self._all(name)), max(self._all(name))) for name in self._seen[0]}

    def _all(self, name: str) -> list[float]:
        return [found[name] for found in self._seen]


def request(floors: Mapping[str, float], handshakes: int = 2) -> float:
    """Seconds of one client: its start and so many handshakes.

    Two are its own, with the bridge and with the server; the server's with the bridge is a third,
    that was made before a request came, and costs only where nothing waits.
    """
    return floors[PYTHON] + floors[NSS] + handshakes * floors[HANDSHAKE]


def shared(floors: Mapping[str, float], clients: int, signing: float = 1) -> float:
    """Requests a second of several clients on all cores; `signing`: the part that signs."""
    return min(clients, cores()) / (request(floors, 3) + signing * floors[RSA])


def payload_rate(floors: Mapping[str, float]) -> float:
    """MiB/s: the slower of one SHA-512 and of all work shared by all cores."""
    hash_, aes = floors[SHA512], floors[AES]
    return min(hash_, cores() / (2 / hash_ + 4 / aes))


def measure(database: Path, runs: int) -> dict[str, float]:
    """All floors by name: times in seconds, rates in MiB/s."""
    return {
        PYTHON: median(lambda: _python("pass"), runs),
        NSS: statistics.median(
            float(_python(_NSS_START, str(database))) for _ in range(max(3, runs))
        ),
        HANDSHAKE: _handshake(max(10, runs)),
        RSA: _signature(),
        SHA512: _rate(lambda data: hashlib.sha512(data).digest()),
        SHA256: _rate(lambda data: hashlib.sha256(data).digest()),
        AES: _aes(),
    }


def _python(program: str, *arguments: str) -> bytes:
    """What a program printed. It has a pipe: without one, `timeout` has subprocess look for its end
    every 32, then every 50 ms."""
    words = [sys.executable, "-c", program, *arguments]
    return subprocess.run(words, check=True, timeout=60, stdout=subprocess.PIPE).stdout


def _handshake(runs: int) -> float:
    """Both sides' work of a TLS 1.2 handshake with certificates of RSA 2048, by OpenSSL.

    Not by NSS and our own dialling: those are what is measured.
    """
    with tempfile.TemporaryDirectory(prefix="sigul-bench-") as name:
        server = _side(ssl.PROTOCOL_TLS_SERVER, Path(name, "server.pem"))
        client = _side(ssl.PROTOCOL_TLS_CLIENT, Path(name, "client.pem"))
        server.load_verify_locations(Path(name, "client.pem"))
        client.load_verify_locations(Path(name, "server.pem"))
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as thread:
        listener.settimeout(_SECONDS)

        def answer() -> None:
            connection, _ = listener.accept()
            connection.settimeout(_SECONDS)
            server.wrap_socket(connection, server_side=True).close()

        def shake() -> None:
            answered = thread.submit(answer)
            connection = socket.create_connection(listener.getsockname(), _SECONDS)
            client.wrap_socket(connection).close()
            answered.result(_SECONDS)

        return median(shake, runs)


def _side(protocol: ssl._SSLMethod, path: Path) -> ssl.SSLContext:
    """One side of a handshake, with a new certificate, which is written to `path`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, path.stem)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + certificate.public_bytes(Encoding.PEM)
    )
    side = ssl.SSLContext(protocol)
    side.check_hostname = False
    side.verify_mode = ssl.CERT_REQUIRED
    side.maximum_version = ssl.TLSVersion.TLSv1_2
    side.load_cert_chain(path)
    return side


def _signature() -> float:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return median(lambda: key.sign(b"text", padding.PKCS1v15(), hashes.SHA512()), 50)


def _rate(work: Callable[[bytes], object], size: int = MIB) -> float:
    data = bytes(size)
    times = []
    for _ in range(64):
        began = time.perf_counter()
        work(data)
        times.append(time.perf_counter() - began)
    return size / MIB / statistics.median(times)


def _aes() -> float:
    """Records of TLS: 16 KiB each."""
    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    return _rate(lambda data: cipher.encrypt(nonce, data, None), 16 * 1024)
