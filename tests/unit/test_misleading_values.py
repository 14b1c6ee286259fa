"""Values and files of configurations that are hardly what was meant: what a person is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from sigul_stack.config import load_client
from sigul_stack.errors import ConfigurationError

FILE = (
    "[client]\nbridge-hostname: b.example.org\nserver-hostname: s.example.org\nuser-name: a\n"
    "[nss]\nnss-dir: /nss\nnss-password-file: {password}\n"
)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("user-name: a", 'user-name: "a"', "leave the quotation marks out"),
        ("user-name: a", "user-name: 'a'", "leave the quotation marks out"),
        ("nss-dir: /nss", "nss-dir: $HOME/nss", "variables are not replaced here"),
        ("nss-dir: /nss", "nss-dir: /home/${USER}/nss", "variables are not replaced here"),
        ("nss-dir: /nss", "nss-dir: /price/5$", ""),
        ("user-name: a", "user-name: o'neill", ""),
    ],
)
def test_what_a_shell_would_take_out_is_warned_of(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    password = tmp_path / "password"
    password.write_text("pw\n")
    file = tmp_path / "client.conf"
    file.write_text(FILE.format(password=password).replace(before, after))
    told = [str(warning) for warning in load_client(file, system_directory=tmp_path).warnings]
    assert [words in text for text in told] == [True] * bool(words), told


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xef\xbb\xbfpw\n", "begins with a byte order mark"),
        ("pw".encode("utf-16"), "begins with a byte order mark"),
        (b"pw \n", "has blanks or line ends around the secret"),
        (b"pw\n\n", "has blanks or line ends around the secret"),
        (b"pw\r\n", ""),
        (b"p w\n", ""),
    ],
)
def test_an_odd_secret_is_warned_of_without_a_word_of_it(
    tmp_path: Path, content: bytes, words: str
) -> None:
    password = tmp_path / "password"
    password.write_bytes(content)
    file = tmp_path / "client.conf"
    file.write_text(FILE.format(password=password))
    told = [str(warning) for warning in load_client(file, system_directory=tmp_path).warnings]
    assert [words in text for text in told] == [True] * bool(words), told
    assert not any("pw" in text.replace(str(tmp_path), "") for text in told)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (FILE.replace("user-name", " user-name").encode(), "a line that begins with a blank"),
        (FILE.encode("utf-16"), "line 1 is not UTF-8 text; save the file as UTF-8"),
        (FILE.encode("utf-16-le"), "line 1 has a NUL byte, as text in UTF-16 has; save it as"),
        (FILE.encode() + b"a\0b\n", "line 8 has a NUL byte"),
    ],
)
def test_a_files_form_is_named_with_its_cure(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "client.conf"
    file.write_bytes(content.replace(b"{password}", b"/dev/null"))
    with pytest.raises(ConfigurationError) as caught:
        load_client(file, system_directory=tmp_path)
    assert words in str(caught.value)
