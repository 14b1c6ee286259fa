"""The runner's files and log: outputs, masks, and lines that are nothing but text.

A runner reads commands from the log: a line that begins with `::`, or has `##[`. Names of files and
what programs say are others' words, so every line goes through `plain`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def plain(text: str) -> str:
    """`text` as one line that no runner takes for a command."""
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
    if shown.lstrip().startswith("::"):
        shown = shown.replace("::", ": :", 1)
    return shown.replace("##[", "# #[")


def say(text: str) -> None:
    """Write a line to the log."""
    print(plain(text), flush=True)


def fail(text: str) -> None:
    """Write a line to the log that the runner shows as an error."""
    # What % means in a command's text.
    print(f"::error::{plain(text).replace('%', '%25')}", flush=True)


def mask(secret: str) -> None:
    """Have the runner show no line of `secret` in the log, by this step or a later one."""
    for line in secret.splitlines():
        if line.strip():
            print(f"::add-mask::{line.replace('%', '%25')}", flush=True)


def set_outputs(values: Mapping[str, str]) -> None:
    """Write outputs of the step, each one line."""
    path = os.environ.get("GITHUB_OUTPUT")
    if not path:
        say("GITHUB_OUTPUT is not set: the outputs are lost")
        return
    with Path(path).open("a", encoding="utf-8") as file:
        for name, value in values.items():
            file.write(f"{name}={plain_output(value)}\n")


def plain_output(value: str) -> str:
    """An output's value, which must not begin another output."""
    if "\n" in value or "\r" in value:
        raise ValueError("an output of the action is one line")
    return value
