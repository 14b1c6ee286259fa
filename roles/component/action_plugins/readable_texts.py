"""Ansible action: refuses variables of the roles in which Ansible would fail to read a template.

Where Ansible fails at that, it prints the line that the text stands in and the lines before it,
with whatever secrets stand there. So they are looked at first, and named without what they hold.
Nothing is filled in: what a template leads to is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import is_trusted_as_template

ROLES: Final = Path(__file__).parents[2]


class ActionModule(ActionBase):
    """The action, which has no argument."""

    _requires_connection = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Look at all variables whose names begin as the roles' do."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        begin = ("sigul_", *(f"{path.name}_" for path in ROLES.iterdir() if path.is_dir()))
        faults = [
            fault
            for name, value in (task_vars or {}).items()
            # secrets_values has a reader of its own, which says more.
            if name.startswith(begin) and name != "secrets_values"
            for fault in unreadable(name, value)
        ]
        if faults:
            raise AnsibleActionFail(
                f"{', '.join(faults)}: no template, although Ansible takes it for one; write it as"
                " !unsafe 'VALUE' in YAML. No secret belongs there, but into a file"
            )
        result["changed"] = False
        return result


def unreadable(place: str, value: Any) -> Iterator[str]:
    """The places of texts in it that cannot be read as templates."""
    if isinstance(value, str):
        if is_trusted_as_template(value) and not _parses(value):
            yield place
    elif isinstance(value, Mapping):
        for key, inner in dict.items(value):  # type: ignore[arg-type]
            yield from unreadable(f"{place}.{key}", inner)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for number, inner in enumerate(list.__iter__(value)):  # type: ignore[arg-type]
            yield from unreadable(f"{place}[{number}]", inner)


def _parses(text: str) -> bool:
    try:
        jinja2.Environment().parse(text)  # noqa: S701 - nothing is rendered
    except jinja2.TemplateSyntaxError:
        return False
    return True
