"""Ansible module: the files of one component on its machine, all in one run of a module.

The component's directory, and the site's above it, belong to whoever runs this: root. Those in it
belong to the user that the component's container runs as, who may have put anything there. So
nothing in them is reached by a path: each directory is opened in its parent, no symbolic link is
followed, and a file that is not as it should be is replaced by a new one in one step.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import stat
from pathlib import Path
from typing import Any, Final, NoReturn

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: component_files
short_description: Have the files of a component as described
options:
  component: {type: str, required: true, description: The component; its configuration's name.}
  home: {type: path, required: true, description: The component's directory.}
  owner: {type: int, required: true, description: UID that all in it belongs to.}
  group: {type: int, required: true, description: GID that all in it belongs to.}
  step:
    type: str
    default: put
    choices: [home, put, accept, discard, compare, remember]
    description:
      - C(home) has the component's directory and the site's, and nothing in them.
      - C(put) has directories, secrets and the NSS database in place, and writes a configuration
        that is not the one there into C(etc/new), for the program to check.
      - C(accept) has what is in C(etc/new) take the old one's place; C(discard) removes it.
      - C(compare) looks whether the files that a daemon reads are those that it was last told to
        read; C(remember) writes down that it was told to read C(loaded).
  directories: {type: list, elements: str, default: [], description: Below home, parents first.}
  secrets: {type: dict, default: {}, description: Files on the control machine, by names here.}
  nss: {type: raw, description: Directory of the NSS database on the control machine.}
  configuration: {type: str, description: What the configuration file holds.}
  daemon: {type: bool, default: false, description: Whether C(put) does C(compare) at its end.}
  loaded: {type: str, description: What C(compare) returned.}
"""

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o400
#: No link is followed, nothing is waited for, and programs that are started get nothing.
OPEN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Component:
    """The component's directory, and what was changed in it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check: bool = module.check_mode
        self.home = Path(module.params["home"])
        self.owner: tuple[int, int] = (module.params["owner"], module.params["group"])
        self.configuration: str = f"{module.params['component']}.conf"
        self.changed: list[str] = []
        #: Open directories by their paths in the component's; None for one that is missing.
        self.opened: dict[str, int | None] = {}

    def fail(self, message: str) -> NoReturn:
        """End here, and tell what was changed until now."""
        self.module.fail_json(msg=message, changed=bool(self.changed), paths=self.changed)
        raise AssertionError("fail_json ends the process")

    # --- What is there -------------------------------------------------------------------------

    def is_own(
        self,
        status: os.stat_result,
        mode: int | None = None,
        owner: tuple[int, int] | None = None,
    ) -> bool:
        """Whether owner and mode are as they should be."""
        right = (status.st_uid, status.st_gid) == (owner or self.owner)
        return right and mode in (None, stat.S_IMODE(status.st_mode))

    def open_in(self, parent: int | None, name: str | Path) -> int | None:
        """Open a directory in its parent; None where there is none."""
        try:
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | OPEN, dir_fd=parent)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            self.fail(f"{name} in or above {self.home} is a link or a file; have a directory there")

    def directory(self, path: str) -> int | None:
        """The open directory with this path in the component's; None where there is none."""
        if path not in self.opened:
            if path:
                above, name = os.path.split(path)
                parent = self.directory(above)
                self.opened[path] = None if parent is None else self.open_in(parent, name)
            else:
                self.opened[path] = self.open_in(None, self.home)
        return self.opened[path]

    def inside(self, path: str) -> int:
        """The open directory with this path, which has to be there."""
        opened = self.directory(path)
        if opened is None:
            self.fail(f"{self.home / path} is not there")
        return opened

    def read(self, path: str) -> tuple[bytes, bool]:
        """What a file holds, and whether owner and mode are as they should be."""
        above, name = os.path.split(path)
        parent = self.directory(above)
        # What is no file, a link for one, is replaced, or else that fails.
        with contextlib.suppress(OSError):
            if parent is not None:
                with os.fdopen(os.open(name, os.O_RDONLY | OPEN, dir_fd=parent), "rb") as file:
                    status = os.fstat(file.fileno())
                    if stat.S_ISREG(status.st_mode):
                        return file.read(), self.is_own(status, FILE_MODE)
        return b"", False

    def current(self) -> str:
        """Which state of the NSS database is the current one; empty where none is."""
        parent = self.directory("nss")
        with contextlib.suppress(OSError):
            if parent is not None:
                name = os.readlink("current", dir_fd=parent)
                return "" if "/" in name or name in (".", "..") else name
        return ""

    # --- Having it as it should be -------------------------------------------------------------

    def have_home(self) -> None:
        """Have the component's directory, and what is missing above.

        These are for whoever runs this alone: root runs and loads what lies there, and the user of
        the containers, if it is anybody on this machine, must not put anything in its place.
        """
        above, missing = self.home.parent, [self.home.name]
        while not above.is_dir():
            missing.insert(0, above.name)
            above = above.parent
        # Up to there it is the administrator's, links are too.
        parent: int | None = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        runner = (os.geteuid(), os.getegid())
        if self.is_own(os.fstat(parent), DIRECTORY_MODE) and self.owner != runner:
            # Earlier versions gave the site's directory to that user.
            self.changed.append(str(above))
            if not self.check:
                os.fchown(parent, *runner)
        for name in missing:
            above /= name
            parent = self.have_directory(parent, name, str(above), runner)
        self.opened[""] = parent

    def have_directories(self, paths: list[str]) -> None:
        """Have directories in the component's."""
        for path in paths:
            above, name = os.path.split(path)
            self.opened[path] = self.have_directory(self.directory(above), name, path)

    def have_directory(
        self, parent: int | None, name: str, path: str, owner: tuple[int, int] | None = None
    ) -> int | None:
        """Have a directory, and open it; with --check it may stay missing."""
        opened = None if parent is None else self.open_in(parent, name)
        if opened is None:
            self.changed.append(path)
            if self.check or parent is None:
                return None
            os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
            opened = self.open_in(parent, name)
            if opened is None:
                self.fail(f"{path} was removed as soon as it was made")
        if not self.is_own(os.fstat(opened), DIRECTORY_MODE, owner):
            if path not in self.changed:
                self.changed.append(path)
            if not self.check:
                os.fchown(opened, *(owner or self.owner))
                os.fchmod(opened, DIRECTORY_MODE)
        return opened

    def have_file(self, path: str, content: bytes) -> bool:
        """Have a file; whether it was or would be changed."""
        if self.read(path) == (content, True):
            return False
        self.changed.append(path)
        if not self.check:
            self.write(path, content)
        return True

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole or not at all."""
        above, name = os.path.split(path)
        parent, new = self.inside(above), f".{name}.new"
        # Of a run that was cut off.
        self.remove_file(parent, new)
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN, 0o600, dir_fd=parent)
        try:
            with os.fdopen(opened, "wb") as file:
                file.write(content)
                file.flush()
                os.fchown(opened, *self.owner)
                os.fchmod(opened, FILE_MODE)
                os.fsync(opened)
            os.replace(new, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            self.remove_file(parent, new)
            raise

    def remove_file(self, parent: int, name: str) -> None:
        """Remove a file that may be there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)

    def remove_directory(self, parent: int, name: str) -> None:
        """Remove a directory and all in it. (`shutil.rmtree` has `dir_fd` from Python 3.11 on.)"""
        opened = self.open_in(parent, name)
        if opened is None:
            return
        with os.scandir(opened) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner, is_directory in found:
            (self.remove_directory if is_directory else self.remove_file)(opened, inner)
        os.close(opened)
        os.rmdir(name, dir_fd=parent)

    def have_nss(self, files: dict[str, bytes]) -> None:
        """Have a state of the NSS database, in a directory of its own, as the current one."""
        sums = (hashlib.sha256(content).hexdigest() for _, content in sorted(files.items()))
        version = hashlib.sha256("".join(sums).encode()).hexdigest()[:16]
        self.have_directories([f"nss/{version}"])
        for name, content in files.items():
            self.have_file(f"nss/{version}/{name}", content)
        before = self.current()
        if before == version and self.is_own(os.lstat("current", dir_fd=self.inside("nss"))):
            return
        self.changed.append("nss/current")
        if self.check:
            return
        parent = self.inside("nss")
        self.remove_file(parent, ".current.new")
        os.symlink(version, ".current.new", dir_fd=parent)
        os.chown(".current.new", *self.owner, dir_fd=parent, follow_symlinks=False)
        os.replace(".current.new", "current", src_dir_fd=parent, dst_dir_fd=parent)
        if before not in ("", version):
            self.remove_states({version, before})

    def remove_states(self, wanted: set[str]) -> None:
        """Remove all states of the NSS database but those."""
        parent = self.inside("nss")
        with os.scandir(parent) as entries:
            states = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in states:
            if name not in wanted:
                self.remove_directory(parent, name)

    def have_configuration(self, content: str) -> dict[str, str] | None:
        """Write a configuration down for a check, unless it is the one there; the difference."""
        path = f"etc/{self.configuration}"
        self.discard()
        found = self.read(path)
        if found == (content.encode(), True):
            return None
        self.changed.append(path)
        if not self.check:
            new = self.have_directory(self.inside("etc"), "new", "etc/new")
            self.opened["etc/new"] = new
            self.changed.remove("etc/new")
            self.write(f"etc/new/{self.configuration}", content.encode())
        header = str(self.home / path)
        before = found[0].decode(errors="replace")
        return {
            "before_header": header, "before": before, "after_header": header, "after": content,
        }  # fmt: skip

    def accept(self) -> None:
        """Have the configuration that was checked take the old one's place."""
        new, old = self.inside("etc/new"), self.inside("etc")
        os.replace(self.configuration, self.configuration, src_dir_fd=new, dst_dir_fd=old)
        self.changed.append(f"etc/{self.configuration}")
        self.discard()

    def discard(self) -> None:
        """Remove the configuration that was to be checked."""
        if self.directory("etc/new") is not None and not self.check:
            self.remove_directory(self.inside("etc"), "new")
            self.opened["etc/new"] = None

    # --- What a daemon was last told to read ---------------------------------------------------

    def readable(self) -> str:
        """The files that a daemon reads, each with what changes when it is written or replaced."""
        lines = []
        state = self.current()
        for path in ("etc", *([f"nss/{state}"] if state else []), "secrets"):
            parent = self.directory(path)
            if parent is None:
                continue
            with os.scandir(parent) as entries:
                for entry in entries:
                    # A hidden one is not there yet.
                    if entry.is_file(follow_symlinks=False) and not entry.name.startswith("."):
                        status = entry.stat(follow_symlinks=False)
                        name = f"{path}/{entry.name}"
                        lines.append(f"{name} {status.st_ino} {status.st_ctime_ns}\n")
        return "".join(sorted(lines))

    def compare(self) -> dict[str, Any]:
        """Whether it was last told to read other files than those."""
        readable = self.readable()
        unread = self.read("loaded") != (readable.encode(), True)
        if unread:
            self.changed.append("loaded")
        return {"loaded": readable, "unread": unread}


def main() -> None:
    """Run the module."""
    contents = {"type": "dict", "default": {}, "no_log": True}
    module = AnsibleModule(
        argument_spec={
            "component": {"type": "str", "required": True},
            "home": {"type": "path", "required": True},
            "owner": {"type": "int", "required": True},
            "group": {"type": "int", "required": True},
            "step": {
                "type": "str",
                "choices": ["home", "put", "accept", "discard", "compare", "remember"],
                "default": "put",
            },
            "directories": {"type": "list", "elements": "str", "default": []},
            # From the action of the same name: what each file holds, in base64.
            "secrets": contents,
            "nss": contents,
            "configuration": {"type": "str"},
            "daemon": {"type": "bool", "default": False},
            "loaded": {"type": "str"},
        },
        supports_check_mode=True,
    )
    component = Component(module)
    try:
        result = run(component, module.params)
    except OSError as error:
        component.fail(f"{error.filename or component.home}: {error.strerror}")
    module.exit_json(changed=bool(component.changed), paths=component.changed, **result)


def put(component: Component, given: dict[str, Any]) -> dict[str, Any]:
    """Do the step `put`."""
    component.have_home()
    component.have_directories(given["directories"])
    for name, content in given["secrets"].items():
        component.have_file(f"secrets/{name}", base64.b64decode(content))
    if given["nss"]:
        nss = {name: base64.b64decode(text) for name, text in given["nss"].items()}
        component.have_nss(nss)
    configuration = None
    if given["configuration"] is not None:
        configuration = component.have_configuration(given["configuration"])
    read = component.compare() if given["daemon"] else {}
    paths = "".join(f"{path}\n" for path in component.changed)
    return {
        **read,
        "configuration": configuration is not None,
        "diff": [
            {"before": "", "after": paths, "after_header": "put in place"},
            *([configuration] if configuration else []),
        ],
    }


def run(component: Component, given: dict[str, Any]) -> dict[str, Any]:
    """Do one step; what it tells beside what it changed."""
    step = given["step"]
    if step == "compare":
        return component.compare()
    if step == "home":
        component.have_home()
        return {}
    if step == "accept":
        component.accept()
    elif step == "discard":
        component.discard()
    elif step == "remember":
        component.have_file("loaded", given["loaded"].encode())
    else:
        return put(component, given)
    return {}


if __name__ == "__main__":
    main()
