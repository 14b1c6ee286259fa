"""What makes the container images; `images/build` is its command line.

Needs the standard library, mmdebstrap, a container engine and the checkout's ./.venv (for its
pip). It is no part of the package `sigul_stack`, and imports nothing of it.
"""

from __future__ import annotations
