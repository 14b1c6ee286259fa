"""A client with `protocol: 0` refuses what 0.207 does not have, before it connects to anybody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.site import Site

pytestmark = pytest.mark.once("our own table of operations and fields")


@pytest.fixture(scope="module")
def old(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of which nothing runs, and whose client speaks version 0."""
    site = Site.copy(template, tmp_path_factory.mktemp("protocol-0") / "site")
    site.extra = {"client": {"client": "protocol: 0\nconnect-timeout: 1\n"}}
    site.configure()
    yield site
    shutil.rmtree(site.directory)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["decrypt", "k", "FILE"], "has no operation 'decrypt'"),
        (["sign-pe", "k", "cert", "FILE"], "has no operation 'sign-pe'"),
        (
            ["sign-certificate", "k", "l", "--subject-certificate-name", "c",
             "--certificate-type", "ca", "--validity", "1y", "-s", "CN=x"],
            "has no operation 'sign-certificate'",
        ),
        (["new-key", "--key-type", "RSA", "k"], "has no field 'keytype'"),
        (["import-key", "--key-type", "ECC", "k", "FILE"], "has no field 'keytype'"),
        (["list-certificates", "k"], "has no operation 'list-certificates'"),
    ],
)  # fmt: skip
def test_what_0_207_does_not_have(old: Site, tmp_path: Path, command: list[str], told: str) -> None:
    (tmp_path / "file").write_text("text")
    words = [str(tmp_path / "file") if word == "FILE" else word for word in command]
    refused = old.sigul(*words, secrets=["a", "b", "c"], code=1).stderr.decode()
    assert told in refused
    assert "protocol: 0" in refused


@pytest.mark.parametrize(
    "command",
    [["list-keys"], ["new-key", "--name-real", "R", "--expire-date", "2030-01-31", "k"],
     ["import-key", "k", "FILE"], ["sign-text", "k", "FILE"]],
)  # fmt: skip
def test_what_0_207_has_is_sent_to_the_bridge_which_is_not_there(
    old: Site, tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "file").write_text("text")
    words = [str(tmp_path / "file") if word == "FILE" else word for word in command]
    refused = old.sigul(*words, secrets=["a", "b", "c"], code=1).stderr.decode()
    assert "protocol: 0" not in refused
    assert "onnect" in refused, refused
