"""Ansible action: reads the secrets that are given to the module `secret_files`.

Ansible takes every text for a template, a password with `{{` in it, too. Where it cannot read one
as such, it prints the line that the text stands in and the lines before it, whatever `no_log` says.
So the values are read here, one by one: a text without Jinja's marks, or marked with `!unsafe`, is
the secret; one that is a single expression, such as `{{ vault_password }}`, is followed; all others
are refused by their names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from ansible.errors import AnsibleActionFail, AnsibleError
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
        return dict(
            self._execute_module(
                module_name="secret_files", module_args=arguments, task_vars=task_vars
            )
        )


def read(value: Any, templar: Any) -> str:
    """The secret that a value is or names. Raises `ValueError`, without the value, if none."""
    for _ in range(LONGEST_WAY):
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
