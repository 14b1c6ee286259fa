"""What tests of the kit share: a container engine, and the images.

Where no engine can be had, tests/conftest.py leaves these tests out and says so.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent.parent

Container = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def engine() -> None:
    """A container engine answers."""
    done = subprocess.run([CHECKOUT / "scripts/engine"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def images(engine: None) -> dict[str, str]:
    """Names of this checkout's images, by component. What is there already is not built again."""
    return built_images()


def built_images(*components: str) -> dict[str, str]:
    """Build the images of these components, or of all; their names by component."""
    done = subprocess.run(
        [CHECKOUT / "images/build", *components],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    return {name.rpartition("/")[2].partition(":")[0]: name for name in names}


@pytest.fixture
def container(images: dict[str, str]) -> Iterator[Container]:
    """Runs a command in a component's container: no network, nothing writable but /tmp."""
    started = []

    def run(
        component: str, *command: str, options: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        name = f"sigul-test-{uuid.uuid4().hex[:12]}"
        started.append(name)
        return subprocess.run(
            [
                *("docker", "run", "--name", name, "--network", "none", "--read-only"),
                *("--tmpfs", "/tmp", *options, images[component], *command),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    yield run
    for name in started:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)
