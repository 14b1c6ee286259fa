"""The floors: what no implementation can undercut with the same tools, measured in the same run."""

from __future__ import annotations

import hashlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.bench.measuring import median
from tests.site import free_port

MIB: Final = 1024**2
PYTHON, NSS, HANDSHAKE, RSA = "Python start", "NSS start", "handshake", "RSA-2048 signature"
SHA512, SHA256, AES = "SHA-512", "SHA-256", "AES-256-GCM"

# What any client has to do with a database before it dials.
_NSS_START: Final = """
import sys
from nss import nss
nss.set_password_callback(lambda slot, retry, word: word)
nss.nss_init("sql:" + sys.argv[1])
"""


def measure(pki: Path, runs: int) -> dict[str, float]:
    """All floors by name: times in seconds, rates in MiB/s. `pki`: tuned databases of a site."""
    python = _process(runs, "pass")
    return {
        PYTHON: python,
        NSS: max(1e-4, _process(runs, _NSS_START, str(pki / "client")) - python),
        HANDSHAKE: _handshake(pki, max(3, runs)),
        RSA: _signature(),
        SHA512: _rate(lambda data: hashlib.sha512(data).digest()),
        SHA256: _rate(lambda data: hashlib.sha256(data).digest()),
        AES: _aes(),
    }


def _process(runs: int, program: str, *arguments: str) -> float:
    words = [sys.executable, "-c", program, *arguments]
    return median(lambda: subprocess.run(words, check=True, timeout=60), runs)


def _handshake(pki: Path, runs: int) -> float:
    """One handshake, both its sides, with keys that cost nothing to open."""
    port = str(free_port())
    command = [sys.executable, "-m", "tests.bench.handshakes"]
    with subprocess.Popen([*command, "listen", str(pki), port], stdout=subprocess.PIPE) as listener:
        try:
            assert listener.stdout is not None
            if not listener.stdout.readline():
                raise RuntimeError("the listener for the floor of a handshake has ended")
            done = subprocess.run(
                [*command, "dial", str(pki), port, str(runs)], check=True, capture_output=True,
                timeout=60,
            )  # fmt: skip
        finally:
            listener.terminate()
    return float(done.stdout)


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
