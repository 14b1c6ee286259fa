"""Ansible action: brings the files of one component from the control machine to its own.

What files hold goes to the module of the same name as an argument that is never logged, so through
the pipe that modules go through.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

#: What makes one state of the NSS database: the three files that NSS reads.
NSS_FILES = ("cert9.db", "key4.db", "pkcs11.txt")


class ActionModule(ActionBase):
    """The part of `component_files` that runs on the control machine."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Read the files, all before any is put in place, and run the module."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        for kind, read in (("secrets", self._secrets), ("nss", self._nss)):
            if kind in arguments:
                arguments[kind] = read(arguments[kind])
        return dict(
            self._execute_module(
                module_name="component_files", module_args=arguments, task_vars=task_vars
            )
        )

    def _secrets(self, files: Mapping[str, str]) -> dict[str, str]:
        component = self._task.args["component"]
        for name, file in files.items():
            if name == "nss-password":
                cure = f"{file}, the NSS database's password, is no file on the control machine;"
                cure += " run site.yml with the role secrets"
            else:
                cure = f"{component}_secrets names {file} for {name}, which is no file on the"
                cure += " control machine; put it there, or have the role secrets make it"
                cure += " (secrets_names)"
            self._need(file, cure)
        return self._contents(files)

    def _nss(self, directory: str) -> dict[str, str]:
        files = {name: f"{directory}/{name}" for name in NSS_FILES}
        cure = f"{directory} on the control machine holds no NSS database; run site.yml with the"
        cure += " role pki, or restore sigul_control from its backup"
        for file in files.values():
            self._need(file, cure)
        contents = self._contents(files)
        # A part of a database is none.
        return contents if len(contents) == len(files) else {}

    def _need(self, file: str, cure: str) -> None:
        # The first run with --check has not made it.
        if not (self._task.check_mode or Path(file).is_file()):
            raise AnsibleActionFail(cure)

    def _contents(self, files: Mapping[str, str]) -> dict[str, str]:
        """What the files hold that are there, in base64."""
        return {name: self._content(file) for name, file in files.items() if Path(file).is_file()}

    def _content(self, file: str) -> str:
        # Of a file that Ansible vault has encrypted, what is in it: decrypted in memory, for
        # get_real_file, as `copy` has it, writes that into a file.
        held: bytes = self._loader._get_file_contents(file)[0]
        return base64.b64encode(held).decode()
