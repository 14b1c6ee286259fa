"""Ansible action: reads the secrets that are given to the module `secret_files`.

Ansible takes every text for a template, a password with `{{` in it, too. Where it cannot read one
as such, it prints the line that the text stands in and the lines before it, whatever `no_log` says.
So the values are read here, one by one: a text without Jinja's marks, or marked with `!unsafe` or
`!vault`, is the secret; one that is a single expression, such as `{{ vault_password }}`, is
followed; all others are refused by their names.

In a run that has a password of Ansible vault, the file of a given secret is encrypted with it: what
came out of a vault is nowhere in clear on the control machine. It is encrypted, and compared with
what its file has, in the memory of this process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.parsing.vault import EncryptedString, VaultLib, VaultSecretsContext, is_encrypted
from ansible.plugins.action import ActionBase
from ansible.template import is_trusted_as_template

#: What makes Ansible read a text as a template: Jinja's marks, or a header that sets others.
MARKS: Final = re.compile(r"\{\{|\{%|\{#|\A#jinja2:")
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")
#: A text that is one expression and nothing else; one that is the name of a variable.
EXPRESSION: Final = re.compile(r"\{\{(?:(?!\{\{|\}\}|\{%|\{#).)+\}\}\s*", re.DOTALL)
VARIABLE: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}\s*")
#: How many variables a value may be followed through.
LONGEST_WAY: Final = 16

CURE: Final = (
    "write it as !unsafe 'VALUE' in YAML where it is the secret itself, or as one expression,"
    " such as '{{ vault_NAME }}', where another variable has it"
)


class ActionModule(ActionBase):
    """The part of `secret_files` that runs on the control machine.

    With `look_only` it reads the values and touches nothing; it needs no other argument then.
    """

    @classmethod
    def finalize_task_arg(cls, name: str, value: Any, templar: Any, context: Any) -> Any:
        """Leave the values as they are written, and read all other arguments as always."""
        if name != "values":
            return super().finalize_task_arg(name, value, templar, context)
        try:
            # As far as the dictionary; what is in it is not looked at.
            given = templar.resolve_to_container(value)
        except AnsibleError:
            return {"faults": ["secrets_values cannot be read: it is no dictionary, and no template"
                               " of one"]}  # fmt: skip
        if not isinstance(given, Mapping):
            return {"faults": ["secrets_values is no dictionary; write NAME: VALUE lines below it"]}
        secrets, faults = {}, []
        # Taken as dict itself gives it: Ansible's own would read each value as a template.
        for key, kept in dict.items(given):
            if not NAME.fullmatch(str(key)):
                faults.append(
                    f"secrets_values: {key} cannot be a file's name; write letters, digits, dashes"
                )
            try:
                secrets[str(key)] = read(getattr(kept, "value", kept), templar)
            except ValueError as error:
                faults.append(f"secrets_values: the value of {key} {error}")
        return {"secrets": secrets, "faults": faults}

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Refuse what cannot be read, and run the module with the rest."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        values = arguments.pop("values", {"secrets": {}, "faults": []})
        # Exceptions are shown in spite of `no_log`, results are not.
        if values["faults"]:
            raise AnsibleActionFail("; ".join(values["faults"]))
        if arguments.pop("look_only", False):
            return result
        arguments["values"] = values["secrets"]
        arguments |= self._encrypted(Path(arguments["directory"]), values["secrets"])
        return dict(
            self._execute_module(
                module_name="secret_files", module_args=arguments, task_vars=task_vars
            )
        )

    def _encrypted(self, directory: Path, given: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """What each file is to hold, as it has it already or new; and what an old one held."""
        context = VaultSecretsContext.current(optional=True)
        if context is None or not context.secrets:
            return {}
        vault = VaultLib(secrets=context.secrets)
        contents, olds = {}, {}
        for name, value in given.items():
            file = directory / name
            there = file.read_bytes() if file.is_file() else b""
            try:
                same = is_encrypted(there) and vault.decrypt(there) == value.encode()
            except AnsibleError:
                # Encrypted with another password: the module keeps it as it is.
                same = False
            contents[name] = (there if same else vault.encrypt(value)).decode()
            if there and not is_encrypted(there):
                olds[name] = vault.encrypt(there).decode()
        return {"contents": contents, "olds": olds}


def read(value: Any, templar: Any) -> str:
    """The secret that a value is or names. Raises `ValueError`, without the value, if none."""
    for _ in range(LONGEST_WAY):
        if isinstance(value, EncryptedString):
            try:
                # Nobody writes a template into a vault's value: it is the secret as it stands.
                return str(value)
            except AnsibleError:
                raise ValueError("is encrypted with another password than those given") from None
        if not isinstance(value, str):
            raise ValueError("is no text; write it in quotes")
        if not value:
            raise ValueError("is empty")
        if not (is_trusted_as_template(value) and MARKS.search(value)):
            return str(value)
        if not EXPRESSION.fullmatch(value):
            raise ValueError(f"has {{{{, {{% or {{#, which Ansible takes for a template; {CURE}")
        named = VARIABLE.fullmatch(value)
        if named and named[1] in templar.available_variables:
            value = templar.available_variables[named[1]]
            continue
        try:
            value = templar.template(value)
        except Exception:  # noqa: BLE001 - whatever it says, it may say with the secret
            raise ValueError(f"is a template that cannot be filled in; {CURE}") from None
    raise ValueError(f"leads through more than {LONGEST_WAY} variables; {CURE}")
