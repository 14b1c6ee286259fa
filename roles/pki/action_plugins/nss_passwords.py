"""Ansible action: passwords that Ansible vault has encrypted, in the clear while `pki` works.

NSS's tools read the password of a database from a file. For those that are encrypted there is one
in memory meanwhile, in a directory of this user's below /dev/shm, and the link beside the database
leads to it. What a run that was killed has left there is removed by the next, or when the machine
starts again.

| `state` | does |
|---|---|
| `open` | makes these files; tells the path of each as `files`, by the path of the encrypted one |
| `closed` | removes them; the links lead to the encrypted files again |
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import is_encrypted
from ansible.plugins.action import ActionBase

#: A file system in memory that every Linux has.
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directory in it is made anew, for us alone


class ActionModule(ActionBase):
    """The action. `control`: the site's directory; `passwords`: files, by their databases."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Have the files, or have them no more."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        passwords: dict[str, str] = self._task.args["passwords"]
        control = hashlib.sha256(str(self._task.args["control"]).encode()).hexdigest()[:16]
        directory = MEMORY / f"sigul-{os.geteuid()}-{control}"
        files: dict[str, str] = {}
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)
        for number, (database, password) in enumerate(passwords.items()):
            file = Path(password)
            if not (file.is_file() and is_encrypted(file.read_bytes())):
                continue
            target = file
            if self._task.args["state"] == "open":
                target = directory / str(number)
                self._write(target, self._loader._get_file_contents(password)[0])
                files[password] = str(target)
            link(Path(database, "nss-password"), target)
        result.update(changed=False, files=files)
        return result

    def _write(self, file: Path, content: bytes) -> None:
        try:
            # Fails where another has made it: that is no directory of ours.
            if not file.parent.is_dir() or file.parent.stat().st_uid != os.geteuid():
                file.parent.mkdir(mode=0o700)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(content)
        except OSError as error:
            raise AnsibleActionFail(
                f"{error.filename} cannot be made: {error.strerror}; passwords that Ansible vault"
                " has encrypted stand in memory there while certificates are made"
            ) from None


def link(path: Path, target: Path) -> None:
    """Have a symbolic link in place of another, or where there is nothing."""
    if path.parent.is_dir() and (path.is_symlink() or not path.exists()):
        new = path.with_name(".nss-password.new")
        new.unlink(missing_ok=True)
        in_memory = target.is_relative_to(MEMORY)
        new.symlink_to(target if in_memory else os.path.relpath(target, path.parent))
        new.replace(path)
