"""A new operation is its row, its handler and its command: nothing else has to be remembered.

The test adds one to a copy of the package, at the end of the three modules that such a change
touches, and signs with it: `sigul`, bridge and server run from that copy.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import sigul_stack
from tests.site import Site

from .commands_support import ADMIN, done, error_line, fingerprint_of, leftovers, misused, person

pytestmark = pytest.mark.once("our own tables of operations and commands")

#: What is added, by module.
ADDED = {
    "protocol/operations.py": """

OPERATIONS = _by_name(
    (
        *OPERATIONS.values(),
        _signing("sign-announcement", *_text("edition"), max_payload=MIB),
    )
)
""",
    "server/handlers/signing_handlers.py": """

def _sign_announcement(context: RequestContext) -> Answer:
    text, output = context.services.scratch(), context.services.scratch()
    text.write(f"Edition: {context.request.text('edition')}\\n\\n".encode())
    text.write(context.request.payload.file.read())
    text.seek(0)
    context.openpgp_key().clear_sign(text, output)
    return Answer(payload=output)


HANDLERS["sign-announcement"] = _sign_announcement
NEEDS_BYTES |= {"sign-announcement"}
""",
    "cli/commands/signing.py": '''

@COMMANDS.planned(
    "sign-announcement",
    "Clear-sign an announcement with its edition on top",
    KEY,
    argument("edition", help="the edition that it is of"),
    argument("file", help="file with the text"),
    OUTPUT,
    secrets=[PASSPHRASE],
)
@with_files(binary=False)
def sign_announcement(call: Call, text: BinaryIO, output: BinaryIO) -> None:
    """Write the clear-signed announcement."""
    call.client.call(
        "sign-announcement",
        {"key": call.arguments.key, "edition": call.arguments.edition},
        {"passphrase": call.secrets["passphrase"]},
        payload=text,
        output=output,
    )
''',
}


@pytest.fixture(scope="module")
def running(template: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with admin's key `k`, all of whose programs are those of the changed copy."""
    original = Path(sigul_stack.__file__).parent
    directory = tmp_path_factory.mktemp("changed")
    shutil.copytree(original, directory / "sigul_stack")
    for name, text in ADDED.items():
        with (directory / "sigul_stack" / name).open("a") as file:
            file.write(text)
    site = Site.copy(template, tmp_path_factory.mktemp("operation") / "site")
    # Not from the current directory, and with another environment than the fork server's, which
    # starts none of them.
    site.variables |= {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        yield site
        assert leftovers(site) == []


def test_it_is_served(running: Site, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("Out now.\n")
    words = ["sign-announcement", "k", "2026-11", str(text)]
    signed = done(running, *words, secrets=["k-pw"])
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    with person(tmp_path / "person", public) as gpg:
        assert gpg.signer(data=signed) == fingerprint_of(gpg, public)
        assert gpg("--decrypt", data=signed) == b"Edition: 2026-11\n\nOut now.\n"
    assert done(running, *words, "-o", str(tmp_path / "out"), secrets=["k-pw"]) == b""
    assert re.search(rb"^Edition: 2026-11\n\nOut now\.$", (tmp_path / "out").read_bytes(), re.M)


def test_its_row_and_command_have_what_the_others_have(running: Site, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(bytes(1024**2 + 1))
    words = ["sign-announcement", "k", "1", str(text)]
    # Its help, and a command line that does not fit.
    assert b"sign-announcement" in running.sigul("--help-commands").stdout
    assert "required: FILE" in misused(running, *words[:3])
    # What was planned comes before the secrets, and the row's limit before the request.
    missing = running.sigul(*words[:3], "none", secrets=[], code=1)
    assert "'none' cannot be read: No such file" in error_line(missing)
    over = running.sigul(*words, "-o", str(tmp_path / "out"), secrets=["k-pw"], code=1)
    assert "over the limit of 1048576 bytes" in error_line(over)
    assert not (tmp_path / "out").exists()
    # The right to the key, and the key's type, are those of the row.
    text.write_text("text")
    wrong = running.sigul(*words, secrets=["wrong"], code=1)
    assert error_line(wrong) == "Authentication failed"
    done(running, "new-key", "pem", "--key-type", "ECC", secrets=[ADMIN, "pem-pw"])
    words[1] = "pem"
    refused = running.sigul(*words, secrets=["pem-pw"], code=1)
    assert error_line(refused) == "Unsupported keytype for operation"


def test_without_the_change_nobody_knows_it(running: Site, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("text")
    result = running.sigul(
        "sign-announcement", "k", "1", str(text), code=2, environment={"PYTHONPATH": ""}
    )
    assert b"unknown command 'sign-announcement'" in result.stderr
