"""Options of a site's gpg.conf that are for signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.formats.openpgp_signatures import Notation, SignatureOptions
from sigul_stack.keystore.gnupg.signature_options import (
    parse_options,
    read_options,
)


def test_without_a_file(tmp_path: Path) -> None:
    assert read_options(tmp_path) == SignatureOptions()
    assert SignatureOptions().hash_name == "sha512"


def test_all_that_is_followed(tmp_path: Path) -> None:
    (tmp_path / "gpg.conf").write_text(
        "# a comment\n\n  --digest-algo SHA256\n"
        "sig-notation who@example.org=release 100%%\nset-notation !must@example.org=x\n"
        "sig-policy-url !https://example.org/policy\nsig-keyserver-url https://example.org/key\n"
        'default-sig-expire 2w\ncomment "signed by us"\nemit-version\nno-escape-from-lines\n'
    )
    options = read_options(tmp_path)
    assert options.hash_name == "sha256"
    remarks = options.remarks
    assert remarks.notations == (
        Notation("who@example.org", "release 100%"),
        Notation("must@example.org", "x", critical=True),
    )
    assert (remarks.policy_url, remarks.policy_critical) == ("https://example.org/policy", True)
    assert (remarks.key_server, remarks.key_server_critical) == ("https://example.org/key", False)
    assert remarks.expires == 14 * 86400
    assert options.headers[0] == ("Comment", "signed by us")
    assert options.headers[1][0] == "Version"
    assert not options.escape_from
    assert options.unfollowed == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("digest-algo SHA1", "digest-algo SHA1: signatures are made with SHA-2 alone"),
        ("digest-algo MD5", "SHA-2 alone"),
        ("local-user 0123", "local-user: each signature is by the key that was asked for"),
        ("sig-notation nonsense", "it is no NAME@DOMAIN=VALUE"),
        ("sig-notation a@b=%k", "its % is not filled in"),
        ("sig-policy-url https://example.org/%f", "its % is not filled in"),
        ("default-sig-expire next year", "only times like"),
        ("textmode", "data is signed as it is"),
        ("comment one\x1b[2J", "it is not one line of text"),
    ],
)
def test_what_is_not_followed_is_named(line: str, said: str) -> None:
    (named,) = parse_options(line).unfollowed
    assert said in named
    assert parse_options(line).hash_name == "sha512"


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [("10", 864000), ("seconds=90", 90), ("1y", 365 * 86400), ("0", None), ("none", None)],
)
def test_expiry(lines: str, seconds: int | None) -> None:
    assert parse_options(f"default-sig-expire {lines}").remarks.expires == seconds


def test_the_last_line_counts_and_comments_are_taken_back() -> None:
    options = parse_options("digest-algo SHA384\ndigest-algo H8\ncomment a\nno-comments\n")
    assert options.hash_name == "sha256"
    assert options.headers == ()


def test_what_is_not_about_signatures_is_passed_over() -> None:
    assert parse_options("keyserver hkps://x\nuse-agent\nverbose\n") == SignatureOptions()
