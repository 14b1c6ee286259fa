#!/opt/sigul-stack/bin/python -P
"""The program `sigul_server` under the path that probes of old images look for."""

from __future__ import annotations

from sigul_stack.cli.sigul_server import program

if __name__ == "__main__":
    program()
