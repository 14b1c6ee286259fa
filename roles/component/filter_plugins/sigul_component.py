"""Ansible filters: what is wrong with variables of a component, before anything is touched.

They ask the programs' own table of options, in the environment that ansible-playbook runs in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

#: A URL with a password in it, or beside it as a parameter.
URL_WITH_PASSWORD = re.compile(r"//[^:/@]*:[^@]*@|[?&]\w*password=", re.IGNORECASE)


def option_faults(options: Mapping[str, Any], component: str) -> list[str]:
    """What is wrong with COMPONENT_options, with names and cures and without secrets."""
    try:
        from sigul_stack.config import PROGRAMS
    except ImportError as error:
        raise AnsibleFilterError(
            "ansible-playbook comes from an environment without sigul-stack; run it from the one"
            " that scripts/bootstrap makes"
        ) from error
    if not options:
        # What has no options need not be a program of ours.
        return []
    program = PROGRAMS[component]()
    return [
        fault
        for section, given in options.items()
        for fault in _section_faults(program, component, str(section), given)
    ]


def _section_faults(program: Any, component: str, section: str, given: Any) -> Iterator[str]:
    where = f"{component}_options: [{section}]"
    if section not in program.sections():
        known = ", ".join(sorted(program.sections()))
        yield f"{where} is unknown; the sections of {program.file} are {known}"
        return
    if not isinstance(given, Mapping):
        yield f"{where} holds no options; write each as NAME: VALUE below it"
        return
    for name, value in given.items():
        if value is not None:
            yield from _option_faults(program, component, section, str(name).lower(), value)


def _option_faults(
    program: Any, component: str, section: str, name: str, value: Any
) -> Iterator[str]:
    from sigul_stack.config.fields import OptionForm
    from sigul_stack.config.ini import ConfigEntry
    from sigul_stack.errors import ConfigurationError

    entry = ConfigEntry(Path(f"{component}_options"), section, name, _text(value))
    declared = [o for o in program.options if o.section == section and o.covers(name)]
    file = name.endswith("-file")
    if not declared:
        yield f"{entry.place} is unknown; docs/configuration.md has what {program.file} knows"
    elif declared[0].form is OptionForm.SECRET or name.removesuffix("-file").endswith("_pin"):
        harmless = name == "database-url" and not URL_WITH_PASSWORD.search(entry.text)
        if not (file or harmless):
            yield (
                f"{entry.place} is a secret, which --diff would show; name a file that holds it in"
                f" {component}_secrets, and write {name}-file: /etc/sigul/secrets/THAT-NAME"
            )
    else:
        try:
            declared[0].parse(entry)
        except ConfigurationError as error:
            yield str(error)


def _text(value: Any) -> str:
    """A value as the template component.conf.j2 writes it and the program reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return str(value).strip()


def not_addresses(variables: Mapping[str, str]) -> list[str]:
    """The names of those variables that are neither empty nor IP addresses."""

    def wrong(value: str) -> bool:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            return value != ""
        return False

    return [name for name, value in variables.items() if wrong(value)]


class FilterModule:
    """The filters by their names."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """What Ansible asks for."""
        return {"sigul_option_faults": option_faults, "sigul_not_addresses": not_addresses}
