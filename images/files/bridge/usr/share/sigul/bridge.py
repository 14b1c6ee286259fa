#!/opt/sigul-stack/bin/python -P
"""The program `sigul_bridge` under the path that probes of old images look for."""

from __future__ import annotations

from sigul_stack.cli.sigul_bridge import program

if __name__ == "__main__":
    program()
