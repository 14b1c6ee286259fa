"""Which entries of a configuration are secrets that stand there themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.config.ini import ConfigFiles
from sigul_stack.config.secrecy import inline_secrets


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("nss", "nss-password: word"),
        ("binding", "pkcs11_a_pin: 1234"),
        ("binding", "pkcs11_a_privkey: pkcs11:token=a?pin-value=1234"),
        ("database", "database-url: postgresql://sigul:word@db.example.org/sigul"),
        ("database", "database-url: postgresql://db.example.org/sigul?user=a&password=word"),
        ("koji", "koji-password: word"),
        ("mine", "api-token: word"),
        # Where no program looks for it, it is one nevertheless.
        ("server", "nss-password: word"),
    ],
)
def test_a_secret_that_stands_there(tmp_path: Path, section: str, line: str) -> None:
    file = tmp_path / "server.conf"
    file.write_text(f"[{section}]\n{line}\n")
    (found,) = inline_secrets(ConfigFiles([file]))
    assert found.option == line.partition(":")[0]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("nss", "nss-password-file: /etc/sigul/secrets/nss-password"),
        ("nss", "nss-password:"),
        ("binding", "pkcs11_tokens: a"),
        ("binding", "pkcs11_a_pin-file: /etc/sigul/secrets/pin"),
        ("database", "database-url: postgresql:///sigul"),
        ("database", "database-url: postgresql://sigul@db.example.org/sigul?sslmode=verify-full"),
        ("server", "max-secret-delay: 60"),
        ("server", "min-secret-length: 12"),
        ("gnupg", "passphrase-length: 64"),
    ],
)
def test_what_is_none(tmp_path: Path, section: str, line: str) -> None:
    file = tmp_path / "server.conf"
    file.write_text(f"[{section}]\n{line}\n")
    assert inline_secrets(ConfigFiles([file])) == []
