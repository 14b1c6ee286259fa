"""`sigul-stack status`: what it shows, what it never lets through to a terminal, how it goes on."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from sigul_stack.cli import stack
from sigul_stack.cli.status_parts import Look
from sigul_stack.cli.status_tables import bridge_tables, server_tables
from sigul_stack.observe import figures
from sigul_stack.observe.view import BridgeView, decode_view, encode_view
from sigul_stack.protocol.status import (
    AttachedWorker,
    BridgeStatus,
    RequestUnderWay,
    ServerStatus,
    encode_status,
)
from sigul_stack.transport.status_socket import StatusSocket
from tests import views

#: What rich writes for colours and weights.
STYLES = re.compile(r"\x1b\[[0-9;]*m")
#: Seconds until something is shown; it comes in a fraction of one.
SHOWN_SECONDS = 30.0
PICTURE = Path(__file__).parents[2] / "docs" / "observe-status.svg"

SERVER = ServerStatus(
    version="2.0.0",
    pid=812,
    started="2026-11-24T06:15:02+00:00",
    workers_attached=2,
    workers_dialling=1,
    workers_busy=3,
    workers=(AttachedWorker(900, 41.5, 0.0413), AttachedWorker(901, 187.0, 0.0521)),
    totals={"requests_total": 18_342, "wrong_secrets_total": 7},
    requests=(RequestUnderWay("autosign", "ann", "sign-rpms", 19.0),),
    signing_log_size=18_204,
    signing_log_time="2026-12-01T10:42:02+00:00",
)


def drawn(view: BridgeView | ServerStatus, *, width: int = 250, colours: bool = False) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
    look = Look(width=width, rows=25)
    tables = (
        bridge_tables(view, look) if isinstance(view, BridgeView) else server_tables(view, look)
    )
    console.print(tables)
    return out.getvalue()


@pytest.mark.parametrize("name", ["calm", "troubled", "empty"])
def test_it_shows_every_figure_of_the_page(name: str) -> None:
    view = getattr(views, name)()
    text = drawn(view).casefold()
    assert [item for item in views.figures_of(view) if item.casefold() not in text] == []


@pytest.mark.parametrize("width", [60, 80, 117])
def test_where_there_is_little_room_nothing_is_cut_off(width: int) -> None:
    view = views.troubled()
    text = drawn(view, width=width)
    assert max(map(len, text.splitlines())) <= width
    joined = "".join(text.split()).casefold()
    for item in (*view.under_way, *view.recent):
        for said in (item.id, item.connection, item.common_name, figures.duration(item.seconds)):
            assert said.replace(" ", "").casefold() in joined
    assert "…" not in text


@pytest.mark.parametrize("colours", [False, True])
def test_what_peers_say_is_text(colours: bool) -> None:
    text = drawn(views.hostile(), width=2000, colours=colours)
    plain = STYLES.sub("", text)
    assert ("\x1b" in text) == colours
    assert all(character.isprintable() or character == "\n" for character in plain)
    for name in views.HOSTILE_NAMES:
        assert figures.shown(name) in plain
    narrow = STYLES.sub("", drawn(views.hostile(), width=80, colours=colours))
    assert all(character.isprintable() or character == "\n" for character in narrow)
    assert max(map(len, narrow.splitlines())) <= 80


def test_nothing_is_told_by_colour_alone() -> None:
    view = views.troubled()
    assert STYLES.sub("", drawn(view, colours=True)) == drawn(view)
    assert "▲ 2 conditions to see to" in drawn(view)
    assert "✓ All is well" in drawn(views.calm())
    assert "▲ refused by the bridge" in drawn(view)


def test_a_server_tells_of_its_workers_and_its_log() -> None:
    text = drawn(SERVER)
    for said in (
        "✓ 2 workers wait at the bridge", "process 812", "2026-11-24 06:15:02 UTC", "900", "41.5 s",
        "52 ms", "sign-rpms", "ann", "autosign", "19.0 s", "18,204 leaves", "18,342",
        "Wrong secrets", "2026-12-01 10:42:02 UTC",
    ):  # fmt: skip
        assert said in text
    assert "▲ No worker waits" in drawn(replace(SERVER, workers_attached=0, workers=()))


def test_the_picture_of_the_documentation_is_of_these_tables() -> None:
    """SIGUL_WRITE_PICTURES=1 makes it."""
    console = Console(file=io.StringIO(), record=True, width=118, force_terminal=True)
    console.print(bridge_tables(views.calm(), Look(width=118, rows=25)))
    # rich's own format has fonts of another host.
    form = re.sub(
        r"@font-face \{\{.*?\}\}\s*|<!--.*?-->\s*", "", CONSOLE_SVG_FORMAT, flags=re.S
    ).replace("Fira Code", "DejaVu Sans Mono")
    drawn = console.export_svg(title="sigul-stack status", code_format=form, unique_id="status")
    drawn = "".join(f"{line.rstrip()}\n" for line in drawn.splitlines())
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    if "SIGUL_WRITE_PICTURES" in os.environ:
        PICTURE.write_text(drawn)
    assert PICTURE.read_text() == drawn


# --- The program ---------------------------------------------------------------------------------


@contextlib.contextmanager
def daemon(path: Path, *, view: bytes = b"", status: bytes = b"") -> Iterator[None]:
    """A daemon's status socket."""
    commands = {"view": lambda _argument: view} if view else {}
    with contextlib.closing(StatusSocket(path, lambda: status, commands=commands)) as served:
        served.serve()
        yield


@pytest.fixture
def bridge(tmp_path: Path) -> Path:
    return configuration(tmp_path, "bridge")


def configuration(directory: Path, component: str) -> Path:
    file = directory / f"{component}.conf"
    file.write_text(
        f"[nss]\nnss-dir: {directory}\nnss-password: x\n[daemon]\nstatus-socket: {directory}/s\n"
        + ("[server]\nbridge-hostname: sigul-bridge.example.org\n" * (component == "server"))
    )
    return file


VIEW = encode_view(views.calm())


def test_the_bridge_is_asked_and_shown(bridge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with daemon(bridge.with_name("s"), view=VIEW):
        assert stack.main(["status", "-c", str(bridge)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("✓ All is well\nSigul bridge 2.0.0, process 4711, started ")
    assert "9f2c41d07be3a816" in out and "\x1b" not in out


def test_as_json_it_is_the_document(bridge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = encode_view(views.hostile())
    with daemon(bridge.with_name("s"), view=hostile):
        assert stack.main(["status", "-c", str(bridge), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == json.loads(hostile)
    assert decode_view(out.encode()) == decode_view(hostile)
    assert out.isascii() and out.replace("\n", "").isprintable()


def test_a_server_is_asked_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = configuration(tmp_path, "server")
    with daemon(tmp_path / "s", status=encode_status(SERVER)):
        assert stack.main(["status", "-c", str(file)]) == 0
        assert "2 workers wait at the bridge" in capsys.readouterr().out
        assert stack.main(["status", "-c", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["component"] == "server"
    # The file and the daemon of another.
    with daemon(tmp_path / "s", status=encode_status(BridgeStatus("1", 7, "", 0, (), 0, {}))):
        assert stack.main(["status", "-c", str(file)]) == 1
    assert "a bridge answers at" in capsys.readouterr().err


@pytest.mark.parametrize("answer", [b"", b"{}", b"[" * 50_000, VIEW[:-40]])
def test_what_is_no_view_is_an_error(
    bridge: Path, answer: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with daemon(bridge.with_name("s"), view=answer or b" "):
        assert stack.main(["status", "-c", str(bridge)]) == 1
    assert "this is no view of a bridge" in capsys.readouterr().err


def test_who_does_not_run_is_an_error(bridge: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stack.main(["status", "-c", str(bridge)]) == 1
    assert "no daemon answers" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "0.4", "3601", "nan", "inf", "soon"])
def test_pauses_have_limits(bridge: Path, seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        stack.main(["status", "-c", str(bridge), "--watch", seconds])
    assert "seconds are 0.5 to 3600" in capsys.readouterr().err


class Terminal:
    """`sigul-stack status --watch` in a terminal of its own."""

    def __init__(self, file: Path, *options: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 130, 0, 0))
        command = [sys.executable, "-m", "sigul_stack.cli.stack", "status", "-c", str(file)]
        self.process = subprocess.Popen(
            [*command, "--watch", "0.5", *options],
            stdin=slave, stdout=slave, stderr=slave,
            env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        os.close(slave)
        self.shown = b""

    def wait_for(self, text: str) -> None:
        """Wait until it shows `text`, and forget what it has shown."""
        end = time.monotonic() + SHOWN_SECONDS
        while text.encode() not in self.shown:
            left = end - time.monotonic()
            assert left > 0, self.shown.decode()
            if select.select([self._master], [], [], left)[0]:
                self.shown += os.read(self._master, 65536)
        self.shown = b""

    def rest(self) -> bytes:
        """What comes until it has ended."""
        with contextlib.suppress(OSError):  # its last user has gone
            while data := os.read(self._master, 65536):
                self.shown += data
        return self.shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait(SHOWN_SECONDS)
        os.close(self._master)


@pytest.mark.system
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_leaves_the_terminal_as_it_was(bridge: Path, number: int, code: int) -> None:
    with (
        daemon(bridge.with_name("s"), view=VIEW),
        contextlib.closing(Terminal(bridge)) as terminal,
    ):
        terminal.wait_for("All is well")
        terminal.process.send_signal(number)
        # Its other screen is left, and the cursor is seen.
        rest = terminal.rest()
        assert b"\x1b[?1049l" in rest and b"\x1b[?25h" in rest
        assert terminal.process.wait(SHOWN_SECONDS) == code


@pytest.mark.system
def test_it_goes_on_when_the_daemon_goes_and_comes_back(bridge: Path) -> None:
    path = bridge.with_name("s")
    with contextlib.closing(Terminal(bridge)) as terminal:
        terminal.wait_for("No answer: ")
        with daemon(path, view=VIEW):
            terminal.wait_for("All is well")
        terminal.wait_for("No answer: ")
        terminal.wait_for("9f2c41d07be3a816")  # what was last known of it stays
        with daemon(path, view=encode_view(views.troubled())):
            terminal.wait_for("2 conditions to see to")


@pytest.mark.system
def test_watched_as_json_each_look_is_a_line(bridge: Path) -> None:
    command = [sys.executable, "-m", "sigul_stack.cli.stack", "status", "-c", str(bridge)]
    with (
        daemon(bridge.with_name("s"), view=VIEW),
        subprocess.Popen(
            [*command, "--watch", "0.5", "--json"], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(SHOWN_SECONDS) == 0
    assert lines == [json.loads(VIEW)] * 2
