"""A hole in a tool leads nowhere in our images, too: one user, no capabilities, Docker's seccomp.

The attempts are those of tests/breakout.py.
"""

from __future__ import annotations

import json

import pytest

from tests.breakout import REFUSED
from tests.kit.conftest import CHECKOUT, Container

pytestmark = [pytest.mark.kit, pytest.mark.timeout(1800)]

PYTHON = "/opt/sigul-stack/bin/python"


def test_a_hole_leads_nowhere_in_the_image(container: Container) -> None:
    # Some 10 s: programs have to start, and to be killed.
    done = container(
        "server",
        *("-c", f"mkdir /tmp/site && exec {PYTHON} /breakout.py /tmp/site"),
        options=(
            *("--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--entrypoint", "sh"),
            *("--volume", f"{CHECKOUT}/tests/breakout.py:/breakout.py:ro"),
        ),
    )
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes.pop("the_other_lives") is True
    assert outcomes
    assert {name: found for name, found in outcomes.items() if found not in REFUSED} == {}
