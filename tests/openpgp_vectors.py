"""Makes tests/data/openpgp-keys/keys.json anew, with the gpg that is installed.

    .venv/bin/python -m tests.openpgp_vectors DIRECTORY >tests/data/openpgp-keys/keys.json

Each key is made by gpg's own commands, at times of long ago, in an empty home in DIRECTORY; then
gpg says at several times which part signs.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

START, DAY = 1_700_000_000, 86_400

#: Steps: days after START, gpg's arguments (FPR is the primary key's fingerprint), what it is told.
Step = tuple[int, list[str], str]
YES = "y\n"


def new(algorithm: str, usage: str = "sign", expires: str = "never") -> Step:
    return 0, ["--quick-generate-key", "a@example.org", algorithm, usage, expires], ""


def subkey(day: int, algorithm: str, usage: str = "sign", expires: str = "never") -> Step:
    return day, ["--quick-add-key", "FPR", algorithm, usage, expires], ""


def revoked(day: int, number: int) -> Step:
    return day, ["--edit-key", "FPR"], f"key {number}\nrevkey\ny\n0\n\ny\nsave\n"


#: Algorithms whose keygrips are to be known.
PLAIN = (
    "rsa2048", "dsa1024", "nistp256", "nistp384", "nistp521", "secp256k1", "brainpoolP256r1",
    "brainpoolP384r1", "brainpoolP512r1", "ed25519",
)  # fmt: skip
ED = "ed25519"
KEYS: dict[str, list[Step]] = {
    **{algorithm: [new(algorithm)] for algorithm in PLAIN},
    "subkeys": [new(ED), subkey(10, "nistp256"), subkey(20, ED), subkey(30, "cv25519", "encr")],
    "certifies, RSA subkey": [new(ED, "cert"), subkey(10, "rsa2048")],
    "certifies alone": [new(ED, "cert"), subkey(10, "cv25519", "encr")],
    "expiring subkey": [new(ED), subkey(10, ED), subkey(20, ED, expires="30d")],
    "revoked subkey": [new(ED), subkey(10, ED), subkey(20, ED), revoked(40, 2)],
    "expiring": [new(ED, expires="50d"), subkey(10, ED)],
    "prolonged": [
        new(ED, expires="50d"), subkey(10, ED, expires="20d"),
        (25, ["--quick-set-expire", "FPR", "60d"], ""),
        (25, ["--quick-set-expire", "FPR", "20d", "*"], ""),
    ],
    "shortened": [new(ED), subkey(10, ED), (25, ["--quick-set-expire", "FPR", "5d"], "")],
    "second user ID": [
        new(ED, expires="50d"), (25, ["--quick-add-uid", "FPR", "b@example.org"], ""),
        (45, ["--quick-revoke-uid", "FPR", "a@example.org"], ""),
    ],
    "revoked": [
        new(ED), subkey(10, ED),
        (30, ["--import"], "REVOCATION"),
    ],
    "without its primary key": [new(ED), subkey(10, ED), (20, ["LOSE", "0"], "")],
    "without its newest subkey": [new(ED), subkey(10, ED), subkey(15, ED), (20, ["LOSE", "2"], "")],
    "without any secret": [new(ED), (20, ["LOSE", "0"], "")],
}  # fmt: skip
LOOKS = (1, 12, 22, 31, 42, 51, 90, 4000)


def gpg(home: Path, day: int, *arguments: str, told: str = "") -> str:
    """What gpg writes, at a day after START; its status lines come with it."""
    return subprocess.run(
        [
            *("gpg", "--homedir", str(home), "--no-tty", "--quiet", "--status-fd", "1"),
            *("--faked-system-time", f"{START + day * DAY}!", "--pinentry-mode", "loopback"),
            *("--passphrase", "", "--trust-model", "always"),
            *(["--command-fd", "0"] if told else ["--batch"]),
            *arguments,
        ],
        input=told,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    ).stdout


def listed(home: Path, what: str) -> dict[str, str]:
    """Keygrips by fingerprint, in the key's order."""
    parts: dict[str, str] = {}
    fingerprint = ""
    for line in gpg(home, 100, "--with-colons", "--with-keygrip", what).splitlines():
        fields = line.split(":")
        if fields[0] == "fpr":
            fingerprint = fields[9]
        elif fields[0] == "grp":
            parts[fingerprint] = fields[9]
    return parts


def vector(directory: Path, name: str, steps: list[Step]) -> dict[str, Any]:
    home = directory / "home"
    home.mkdir(mode=0o700)
    secrets = home / "private-keys-v1.d"
    for day, arguments, told in steps:
        parts = listed(home, "--list-keys")
        primary = next(iter(parts), "")
        if arguments[0] == "LOSE":
            (secrets / f"{list(parts.values())[int(arguments[1])]}.key").unlink()
        elif told == "REVOCATION":
            text = (home / "openpgp-revocs.d" / f"{primary}.rev").read_text()
            file = home / "revocation"
            file.write_text(text.replace("\n:-----BEGIN", "\n-----BEGIN"))
            gpg(home, day, "--import", str(file))
        else:
            told_arguments = [primary if a == "FPR" else a for a in arguments]
            gpg(home, day, *told_arguments, told=told)
    parts = listed(home, "--list-keys")
    primary = next(iter(parts))
    data, made = home / "data", home / "data.sig"
    data.write_bytes(b"data")
    signers: list[tuple[int, str | None]] = []
    for day in LOOKS:
        said = gpg(home, day, "--yes", "-u", primary, "-o", str(made), "-b", str(data))
        created = [line.split()[-1] for line in said.splitlines() if "] SIG_CREATED " in line]
        good = created and "] GOODSIG " in gpg(home, day, "--verify", str(made), str(data))
        signers.append((START + day * DAY, created[0] if good else None))
    exported = subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--export"],
        capture_output=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    there = [grip for grip in parts.values() if (secrets / f"{grip}.key").exists()]
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, timeout=60)
    shutil.rmtree(home)
    return {
        "name": name,
        "public": base64.b64encode(exported).decode(),
        "grips": parts,
        "secrets": there,
        "signers": signers,
    }


if __name__ == "__main__":
    made = [vector(Path(sys.argv[1]), name, steps) for name, steps in KEYS.items()]
    print(json.dumps(made, indent=1))
