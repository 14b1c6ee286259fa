"""What a daemon's C library does with the memory that a chunk of a payload took."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Takes and frees the buffers of a few chunks, more than the library keeps by itself, and prints
#: how many pages of memory the kernel had to give for that each time.
_CHUNKS = """
import resource, sys
from sigul_stack.system.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
data = bytearray(1 << 20)
def use():
    for _ in [bytes(data) for _ in range(6)]:
        pass
use()
before = faults()
for _ in range(100):
    use()
print((faults() - before) // 100)
"""


@pytest.mark.parametrize(("how", "least", "most"), [("kept", 0, 16), ("left alone", 256, 6 * 256)])
def test_chunks_memory_is_kept_for_the_next(how: str, least: int, most: int) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _CHUNKS, how], capture_output=True, check=True, timeout=60, text=True
    ).stdout
    assert least <= int(said) <= most
