"""What a daemon's C library does with the memory that a chunk of a payload took."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: Takes and frees a chunk's buffer, which is larger than what the library keeps by itself, and
#: prints how many pages the kernel had to give for that, a chunk.
_CHUNKS = """
import resource, sys
from sigul_stack.system.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
data = bytearray(1 << 20)
bytes(data)
before = faults()
for _ in range(100):
    bytes(data)
print((faults() - before) // 100)
"""


@pytest.mark.parametrize(("how", "least", "most"), [("kept", 0, 1), ("left alone", 128, 512)])
def test_a_chunks_memory_is_kept_for_the_next(how: str, least: int, most: int) -> None:
    said = subprocess.run(
        [sys.executable, "-c", _CHUNKS, how], capture_output=True, check=True, timeout=60, text=True
    ).stdout
    assert least <= int(said) <= most
