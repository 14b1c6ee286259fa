"""What peers say, where a person or a reader of a log sees it: text in its place, and no more.

A server that clients should not have trusted answers with what a terminal would obey; a client's
names try to end the quotes that a log has them in.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from sigul_stack.errors import Status
from sigul_stack.protocol.messages import bridge_refusal
from sigul_stack.protocol.versions import LATEST
from tests.hostile.conftest import AttackerFactory, HonestFactory
from tests.site import Site
from tests.wire import u32

#: Clears the screen, sets the window's title, goes back over the line, begins a second line;
#: changes the direction of writing; has no width; ends a line for some.
EVIL = "evil\x1b[2J\x1b]0;title\x07\r\nroot\x7f\x9b31m\u202eabc\u2066\u200b\u2028end"
SHOWN = r"evil\x1b[2J\x1b]0;title\x07\r\nroot\x7f\x9b31m\u202eabc\u2066\u200b\u2028end"
#: Nothing of this may come out of a program, in any text.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]")


def names(count: str, *items: str) -> dict[str, Any]:
    """A reply that lists names."""
    return {
        "fields": {count: u32(len(items))},
        "payload": b"".join(item.encode() + b"\0" for item in items),
    }


ANSWERS: dict[str, tuple[list[str], dict[str, Any], int]] = {
    "users": (["list-users"], names("num-users", EVIL, "alice"), 0),
    "keys": (["list-keys"], names("num-keys", EVIL), 0),
    "users of a key": (["list-key-users", "--password", "k"], names("num-users", EVIL), 0),
    "binding methods": (["list-server-binding-methods"], names("num-methods", EVIL), 0),
    "an access": (
        ["key-user-info", "alice", "k"],
        {"fields": {"key-admin": b"\0", "only": EVIL.encode(), "rpm-names": EVIL.encode()}}, 0,
    ),
    "a refusal": (
        ["list-users"],
        {"status": Status.UNKNOWN_ERROR.value, "fields": {"message": EVIL.encode()}}, 1,
    ),
    "the bridge's own word": (
        ["list-users"],
        {"reply": b"".join(bridge_refusal(EVIL, LATEST))}, MAY_HAVE_HAPPENED,
    ),
}  # fmt: skip


@pytest.mark.once("our own words")
@pytest.mark.parametrize("said", ANSWERS)
def test_what_a_server_says_does_not_reach_the_terminal(
    quiet: Site, attacker: AttackerFactory, said: str
) -> None:
    command, answer, code = ANSWERS[said]
    quiet.forget_logs()
    quiet.start_bridge()
    server = attacker(quiet, "the server", "server", database="server")
    server.start(**answer)
    server.wait_for("waiting")
    done = quiet.sigul(*command, secrets=["any"], code=None)
    text = (done.stdout + done.stderr).decode("utf-8")
    assert not OBEYED.search(text), text
    assert done.returncode == code, text
    assert SHOWN in text or "unprintable" in text, text
    server.outcome()


@pytest.mark.once("our own words")
def test_plain_text_stays_as_it_is(quiet: Site, attacker: AttackerFactory) -> None:
    plain = ["O'Neil", 'a "b" \\ c', "müller@例え.jp", "\\x1b[2J"]
    quiet.forget_logs()
    quiet.start_bridge()
    server = attacker(quiet, "the server", "server", database="server")
    server.start(**names("num-users", *plain))
    server.wait_for("waiting")
    done = quiet.sigul("list-users", secrets=["any"])
    assert done.stdout.decode() == "".join(f"{name}\n" for name in plain)
    server.outcome()


@pytest.mark.once("our own words")
def test_names_cannot_forge_words_of_a_log_line(
    quiet: Site, attacker: AttackerFactory, honest_at: HonestFactory
) -> None:
    name = "x' done\\' of user 'alice"
    bridge, server = quiet.start_bridge(), quiet.start_server()
    told = attacker(quiet).run(
        op="list-users", user=name, secrets={"password": b"wrong"},
    )  # fmt: skip
    assert told["status"] == Status.AUTHENTICATION_FAILED
    shown = r"'x\' done\\\' of user \'alice'"
    assert f"Request 'list-users' of user {shown}, payload 0 bytes" in bridge.text
    assert shown in server.text
    for log in (bridge.text, server.text):
        assert name not in log
    honest = honest_at(quiet)
    for user in honest.passphrases:
        honest.sign(user)
    assert "Request 'sign-data' of user 'alice' done" in server.text
