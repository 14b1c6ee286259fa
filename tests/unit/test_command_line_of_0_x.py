"""Scripts that were written for 0.207's client: its commands and options are taken as they are.

Its command line is that of 1.2 (`test_command_table.py`) but for what is here.
"""

from __future__ import annotations

import pytest

from sigul_stack.protocol.versions import VERSIONS
from tests.unit.test_command_table import parsed

#: Every command of 0.207, with all the options that it had.
LINES = [
    "list-users",
    "new-user --admin --with-password u",
    "delete-user u",
    "user-info u",
    "modify-user --admin yes --new-name v --change-password u",
    "key-user-info u k",
    "modify-key-user --key-admin no u k",
    "list-keys",
    "new-key --key-admin u --name-real R --name-comment C --name-email E --expire-date 2030-01-31"
    " k",
    "import-key --key-admin u k f",
    "delete-key k",
    "modify-key --new-name l k",
    "list-key-users --password k",
    "grant-key-access -b test -c test -w f k u",
    "revoke-key-access --password k u",
    "get-public-key --password k",
    "change-key-expiration --expire-date 2030-01-31 --subkey 1 k",
    "change-passphrase -b test -c test -w f k",
    "sign-text -o o k f",
    "sign-data -o o -a k f",
    "sign-git-tag k t",
    "sign-container -o o k f r",
    "sign-ostree -o o k h f",
    "sign-rpm -o o --store-in-koji --koji-only -k i --v3-signature k f",
    "sign-rpms -o d --store-in-koji --koji-only -k i --v3-signature k f g",
    "list-binding-methods",
    "list-server-binding-methods",
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[0])
def test_a_command_of_0_207_is_one(line: str) -> None:
    parsed(line)


def test_what_0_207_has_is_all_there() -> None:
    """Each of its operations has a command above; what it does not have is no command of it."""
    told = {line.split()[0] for line in LINES}
    # The client's own methods are no request; those of the server have a command of another name.
    asked = told - {"list-binding-methods"}
    assert {name.replace("list-server-", "list-") for name in asked} == set(VERSIONS[0].operations)


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        ("--name-real R", "gnupg_name_real", "R"),
        ("--gnupg-name-real R", "gnupg_name_real", "R"),
        ("--name-comment C", "gnupg_name_comment", "C"),
        ("--name-email E", "gnupg_name_email", "E"),
        ("--expire-date 2030-01-31", "gnupg_expire_date", "2030-01-31"),
        ("--gnupg-expire-date 2030-01-31", "gnupg_expire_date", "2030-01-31"),
    ],
)
def test_both_spellings_mean_the_same(options: str, field: str, value: str) -> None:
    _name, arguments = parsed(f"new-key {options} k")
    assert str(getattr(arguments, field)) == value
