"""Tokens for tests: SoftHSM (PKCS#11), swtpm (a TPM 2.0) and sessions with kernel keyrings.

Each stands for a machine's own: what is made in one directory is not there in another.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECONDS = 60.0
PIN = "1234-pin"


def tool(*command: str, environment: Mapping[str, str] | None = None, data: bytes = b"") -> bytes:
    """Run a program, which must succeed; its output."""
    done = subprocess.run(
        command, input=data, capture_output=True, timeout=SECONDS, check=False,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout


# --- PKCS#11 -----------------------------------------------------------------------------------


@dataclass
class KeyPair:
    """An RSA key and its certificate in a directory, both PEM."""

    name: str
    key: Path
    certificate: Path

    @classmethod
    def make(cls, directory: Path, name: str) -> KeyPair:
        """A new one."""
        key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
        tool("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30",
             "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(certificate))  # fmt: skip
        return cls(name, key, certificate)

    def lines(self, *, privkey: bool = True) -> str:
        """The options of [binding] for a token with this key."""
        text = f"pkcs11_{self.name}_pubkey: {self.certificate}\n"
        if privkey:
            text += (
                f"pkcs11_{self.name}_privkey: pkcs11:token={self.name};object=bind;type=private\n"
                f"pkcs11_{self.name}_pin: {PIN}\n"
            )
        return text


class SoftHSM:
    """The tokens that are plugged into one machine, in `directory`."""

    def __init__(self, directory: Path) -> None:
        (directory / "tokens").mkdir(parents=True)
        self.configuration = directory / "softhsm2.conf"
        self.configuration.write_text(
            f"directories.tokendir = {directory}/tokens\nobjectstore.backend = file\n"
            "log.level = ERROR\n"
        )

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to find these tokens."""
        return {"SOFTHSM2_CONF": str(self.configuration)}

    def plug_in(self, pair: KeyPair) -> None:
        """A token named like `pair`, which holds its key."""
        pkcs8 = pair.key.with_suffix(".p8")
        tool("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(pair.key), "-out", str(pkcs8))
        for command in (
            ["--init-token", "--free", "--label", pair.name, "--so-pin", "5678"],
            ["--import", str(pkcs8), "--token", pair.name, "--label", "bind", "--id", "01"],
        ):
            tool("softhsm2-util", *command, "--pin", PIN, environment=self.environment)

    def initialise(self, label: str, pin: str = PIN) -> None:
        """A new token without keys."""
        tool("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "5678",
             "--pin", pin, environment=self.environment)  # fmt: skip

    def put(self, token: str, key: Path, certificate: Path, *, id: str, label: str,
            certificate_label: str) -> None:  # fmt: skip
        """Put an RSA or EC key (PEM) on a token, and its certificate beside it."""
        pkcs8, der = key.with_suffix(".p8"), certificate.with_suffix(".der")
        tool("openssl", "pkcs8", "-topk8", "-nocrypt", "-in", str(key), "-out", str(pkcs8))
        tool("openssl", "x509", "-in", str(certificate), "-outform", "DER", "-out", str(der))
        tool("softhsm2-util", "--import", str(pkcs8), "--token", token, "--label", label,
             "--id", id, "--pin", PIN, environment=self.environment)  # fmt: skip
        tool("pkcs11-tool", "--module", softhsm_module(), "--token-label", token, "--login",
             "--pin", PIN, "--write-object", str(der), "--type", "cert", "--id", id,
             "--label", certificate_label, environment=self.environment)  # fmt: skip


def softhsm_module() -> str:
    """SoftHSM's own PKCS#11 module, past p11-kit."""
    for path in ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"):
        if Path(path).exists():
            return path
    raise AssertionError("SoftHSM is missing: install the package softhsm2")


# --- TPM ---------------------------------------------------------------------------------------


@dataclass
class TPM:
    """A running swtpm."""

    tcti: str

    @property
    def lines(self) -> str:
        """The option of [binding] for it."""
        return f"tpm_tcti: {self.tcti}\n"

    def loaded(self) -> bytes:
        """The handles of objects and sessions that are loaded."""
        return b"".join(
            tool("tpm2_getcap", f"handles-{kind}", environment={"TPM2TOOLS_TCTI": self.tcti})
            for kind in ("transient", "loaded-session")
        )

    def extend(self, pcr: int) -> None:
        """Let a register of the bank sha256 hold something else."""
        tool(
            "tpm2_pcrextend", f"{pcr}:sha256={'5a' * 32}", environment={"TPM2TOOLS_TCTI": self.tcti}
        )


@contextmanager
def running_tpm(directory: Path) -> Iterator[TPM]:
    """A TPM with its state in `directory` (made if it is not there), just started."""
    directory.mkdir(parents=True, exist_ok=True)
    socket = directory / "socket"
    log = directory / "log"
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}", "--log", f"file={log}",
         "--server", f"type=unixio,path={socket}", "--ctrl", f"type=unixio,path={socket}.ctrl",
         "--flags", "not-need-init,startup-clear"],
    )  # fmt: skip
    try:
        # The deadline is that of waiting for the socket, and of nothing else.
        from .site import wait_until

        wait_until(socket.exists, SECONDS, f"swtpm's socket {socket}")
        yield TPM(f"swtpm:path={socket}")
    finally:
        process.terminate()
        process.wait(SECONDS)
        for path in (socket, Path(f"{socket}.ctrl")):
            path.unlink(missing_ok=True)


# --- The kernel's keyring ----------------------------------------------------------------------

_IN_SESSION = """
keyctl padd user "$1" @s >&2 || exit 99
shift
exec "$@" 2>&3
"""


def in_session(
    command: Sequence[str], name: str, content: str, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run `command` in a session of its own whose keyring has the user key `name`."""
    read, write = os.pipe()
    try:
        process = subprocess.Popen(
            ["sh", "-c", 'exec 3>&2 2>/dev/null; exec keyctl session - sh -c "$0" sh "$@"',
             _IN_SESSION, name, *command],
            stdin=read, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(environment),
        )  # fmt: skip
    finally:
        os.close(read)
        os.write(write, content.encode())
        os.close(write)
    with process:
        try:
            stdout, stderr = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, stdout, stderr)
