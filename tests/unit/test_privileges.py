"""What stays root beside a daemon's own user: its files are of use to him, and nothing else is."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sigul_stack.cli import pidfile
from sigul_stack.cli.logs import set_up_daemon
from sigul_stack.config.identity import Identity, drop_privileges_unless_roots, rights_for
from sigul_stack.errors import ConfigurationError
from sigul_stack.transport.status_socket import StatusSocket, read_status

log = logging.getLogger("sigul_stack.test")

TOP = Path(__file__).parents[2]
#: A user for whom nothing on the machine is meant.
UID = 65534
USER = Identity(UID, UID, ())
SECONDS = 60


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory of root's that every user can reach, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="sigul-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["root's", "the user's"])
def directory(request: pytest.FixtureRequest, top: Path) -> Path:
    """A directory for a daemon's files."""
    path = top / "run"
    path.mkdir()
    if request.param == "the user's":
        os.chown(path, UID, UID)
    return path


def in_child(work: Callable[[], object], *, as_user: bool = False) -> bool:
    """Whether `work` ends without an exception in a process of its own, as the user or as root."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if as_user:
                os.setgroups([])
                os.setresgid(UID, UID, UID)
                os.setresuid(UID, UID, UID)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


# ------------------------------------------------------------------------------ names are swapped


@pytest.mark.root
@pytest.mark.parametrize("attack", ["symlink", "hard link", "directory"])
@pytest.mark.parametrize(
    ("kind", "steps"), [("status", 6), ("management", 7), ("log", 5), ("pid", 5)]
)
def test_the_user_reaches_nothing_of_root_s(kind: str, steps: int, attack: str, top: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.swapping", kind, attack, str(UID), str(top)],
        cwd=TOP, capture_output=True, timeout=SECONDS, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert found["changed"] == {}
    assert found["steps"] >= steps


# ----------------------------------------------------------------------------------- whose rights


def links(target: str) -> Callable[[Path], object]:
    """Makes `place` a link."""
    return lambda top: (top / "place").symlink_to(target)


def a_directory(mode: int, uid: int = 0, *further: str) -> Callable[[Path], object]:
    """Makes `place`, and what is below it of root's."""

    def make(top: Path) -> None:
        (top / "place").mkdir()
        os.chown(top / "place", uid, uid)
        (top / "place").chmod(mode)
        if further:
            top.joinpath("place", *further).mkdir(parents=True)

    return make


def a_link_of_the_users(top: Path) -> None:
    links("root")(top)
    os.chown(top / "place", UID, UID, follow_symlinks=False)


@pytest.mark.root
@pytest.mark.parametrize(
    ("make", "name", "uid"),
    [
        (a_directory(0o755), "place", 0),
        (a_directory(0o700), "place", 0),
        (a_directory(0o755, 0, "a", "b"), "place/a/b", 0),
        (a_directory(0o1777, 0, "a"), "place/a", 0),  # like /tmp
        (links("root"), "place", 0),
        (links("root/../root"), "place/../root", 0),
        (a_directory(0o755, UID), "place", UID),
        (a_directory(0o555, UID), "place", UID),  # it is his to change
        (a_directory(0o755, UID, "a"), "place/a", UID),
        (a_directory(0o775), "place", UID),
        (a_directory(0o757), "place", UID),
        (a_directory(0o777, 0, "a"), "place/a", UID),
        (a_directory(0o1777), "place", UID),
        (a_link_of_the_users, "place", UID),
        (links("user/link"), "place", UID),
        (links("place"), "place", UID),
        (a_directory(0o755), "place/none", UID),
    ],
)
def test_root_s_own_rights_are_for_where_nobody_else_changes_names(
    make: Callable[[Path], object], name: str, uid: int, top: Path
) -> None:
    (top / "root").mkdir()
    (top / "user").mkdir()
    (top / "user/link").symlink_to(top / "root")
    os.chown(top / "user", UID, UID)
    make(top)
    before = (os.getresuid(), os.getresgid(), os.getgroups())
    with pytest.raises(ZeroDivisionError), rights_for(USER, top / name):
        assert (os.geteuid(), os.getegid()) == (uid, uid)
        assert os.getgroups() == ([] if uid else before[2])
        assert os.getuid() == 0  # whom the user may neither trace nor signal
        raise ZeroDivisionError
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


@pytest.mark.root
@pytest.mark.parametrize(
    ("change", "uid"),
    [
        (lambda top: None, 0),
        (lambda top: os.chown(top / "place", UID, UID), UID),
        (lambda top: os.chown(top / "place/file", UID, UID), UID),
        (lambda top: (top / "place/file").chmod(0o666), UID),
        (lambda top: (top / "place/link").symlink_to(top / "user"), UID),
        (lambda top: shutil.rmtree(top / "place"), UID),
    ],
)
def test_root_reads_as_root_what_nobody_else_can_change(
    change: Callable[[Path], object], uid: int, top: Path
) -> None:
    (top / "user").mkdir()
    os.chown(top / "user", UID, UID)
    (top / "place").mkdir()
    (top / "place/file").touch()
    change(top)

    def read() -> None:
        drop_privileges_unless_roots(USER, top / "place")
        assert os.getresuid() == (uid, uid, uid)

    assert in_child(read)


@pytest.mark.root
def test_a_daemon_that_stays_root_for_good_keeps_its_rights(top: Path) -> None:
    os.chown(top, UID, UID)
    for identity in (None, Identity(0, 0, ())):
        with rights_for(identity, top):
            assert os.geteuid() == 0


def test_who_is_not_root_stays_who_he_is(top: Path) -> None:
    def look() -> None:
        with rights_for(Identity(1, 1, ()), top):
            assert os.geteuid() != 0
            assert os.geteuid() == os.getuid()

    if os.geteuid() == 0:
        assert in_child(look, as_user=True)
    else:
        look()


@pytest.mark.system
@pytest.mark.root
def test_root_without_the_capability_is_told(top: Path) -> None:
    os.chown(top, UID, UID)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from sigul_stack.config.identity import Identity, rights_for\n"
        f"with rights_for(Identity({UID}, {UID}, ()), Path(sys.argv[1])): pass\n"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-setuid,-setgid", "--inh-caps=-setuid,-setgid",
         sys.executable, "-c", code, str(top)],
        cwd=TOP, capture_output=True, timeout=SECONDS, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("sigul_stack.errors.ConfigurationError: this process (user 0) may not")


# -------------------------------------------------------------------------- what the files are for


@pytest.mark.root
def test_the_status_socket_is_the_user_s(directory: Path) -> None:
    path = directory / "s.sock"
    status = StatusSocket(path, lambda: b"document", USER)
    status.serve()
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, UID, UID)
    assert read_status(path, SECONDS) == b"document"
    assert in_child(lambda: read_status(path, SECONDS), as_user=True)
    status.close()
    assert list(directory.iterdir()) == []


@pytest.mark.root
def test_a_log_that_is_moved_away_is_begun_anew_for_root_and_user(directory: Path) -> None:
    set_up_daemon("sigul_test", 0, stream=None, directory=directory, owner=USER)
    path = directory / "sigul_test.log"
    for name in ("first", "second"):
        log.warning("root, %s", name)
        assert in_child(lambda name=name: log.warning("user, %s", name), as_user=True)
        found = path.lstat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, UID, UID)
        path.rename(directory / name)
    for name in ("first", "second"):
        lines = (directory / name).read_text().splitlines()
        assert [line.partition("] ")[2] for line in lines] == [f"root, {name}", f"user, {name}"]


@pytest.mark.root
def test_a_log_of_logrotate_s_making_keeps_its_group(top: Path) -> None:
    path = top / "sigul_test.log"
    path.touch(0o640)
    os.chown(path, UID, 4)
    set_up_daemon("sigul_test", 0, stream=None, directory=top, owner=USER)
    assert (path.lstat().st_uid, path.lstat().st_gid) == (UID, 4)


@pytest.mark.root
@pytest.mark.parametrize("obstacle", ["link", "fifo", "directory"])
def test_what_is_put_in_a_log_s_place_costs_no_message(
    obstacle: str, directory: Path, top: Path
) -> None:
    set_up_daemon("sigul_test", 0, stream=None, directory=directory, owner=USER)
    path = directory / "sigul_test.log"
    path.rename(directory / "moved")
    if obstacle == "link":
        path.symlink_to(top / "elsewhere")
    elif obstacle == "fifo":
        os.mkfifo(path, 0o666)
    else:
        path.mkdir()
    log.warning("one")
    assert (directory / "moved").read_text().endswith(" one\n")
    assert not (top / "elsewhere").exists()
    path.rmdir() if obstacle == "directory" else path.unlink()
    log.warning("two")
    assert path.read_text().endswith(" two\n")
    assert path.lstat().st_uid == UID


@pytest.mark.root
def test_a_log_that_the_user_may_not_write_to_is_told_at_start(top: Path) -> None:
    os.chown(top, UID, UID)
    (top / "sigul_test.log").touch(0o600)
    with pytest.raises(ConfigurationError, match=f"user {UID} must be able to write to") as caught:
        set_up_daemon("sigul_test", 0, stream=None, directory=top, owner=USER)
    assert os.strerror(errno.EACCES) in str(caught.value)


@pytest.mark.root
def test_a_pid_file_is_held_and_removed(directory: Path) -> None:
    def be_daemon() -> None:
        path = directory / "sigul_test.pid"
        with pidfile.held(path, USER):
            assert path.read_text() == f"{os.getpid()}\n"
            assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0
            assert path.stat().st_uid == directory.stat().st_uid
        assert list(directory.iterdir()) == []

    assert in_child(be_daemon)
