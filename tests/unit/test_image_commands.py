"""What programs that build images are started with: images/builder/commands.py."""

from __future__ import annotations

import os
import sys

import pytest

from images.builder.commands import run

TELL = (
    "import os; print(sorted(name for name in os.environ if name.startswith(('PYTHON', 'SIGUL'))))"
)


def test_settings_of_python_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PYTHON", "SIGUL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("SIGUL_PYTHON", "/usr/bin/python3")
    told = run([sys.executable, "-c", TELL], environment={"PYTHONHASHSEED": "0"})
    assert told.decode().strip() == "['PYTHONHASHSEED', 'SIGUL_PYTHON']"
