"""Which files are taken for whole PE images, before any program is given them."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import RequestRefused
from sigul_stack.signing.pe import check_image, remove_leftovers
from sigul_stack.system.files import opened, try_lock
from tests.pe_images import Machine, make_image

IMAGE = make_image(Machine.X86_64)
PE = 0x80
OPTIONAL = PE + 24
CERTIFICATES = OPTIONAL + 112 + 4 * 8


def patched(at: int, value: bytes) -> bytes:
    return IMAGE[:at] + value + IMAGE[at + len(value) :]


@pytest.mark.parametrize("machine", Machine)
@pytest.mark.parametrize("trailing", [b"", b"x", bytes(513)])
def test_whole_images_are_taken(machine: Machine, trailing: bytes) -> None:
    file = io.BytesIO(make_image(machine, bytes(5000), trailing=trailing))
    check_image(file)
    assert file.tell() == 0


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "ends inside its headers"),
        (b"MZ", "ends inside its headers"),
        (b"#!/bin/sh\n".ljust(500), "does not begin with MZ"),
        (b"MSCF" + bytes(500), "does not begin with MZ"),
        (patched(0x3C, struct.pack("<I", 4)), "inside its DOS header"),
        (patched(0x3C, struct.pack("<I", 0xFFFFFFF0)), "ends inside its headers"),
        (patched(PE, b"NE"), "no PE header"),
        (patched(PE + 6, b"\xff\xff"), "size of its headers"),
        (patched(PE + 20, b"\x08\0"), "too short"),
        (patched(PE + 20, b"\xff\xff"), "ends inside its headers"),
        (patched(OPTIONAL, b"\x07\x01"), "neither PE32 nor PE32+"),
        (patched(OPTIONAL + 108, struct.pack("<I", 4)), "no place for signatures"),
        (patched(OPTIONAL + 60, struct.pack("<I", 16)), "size of its headers"),
        (patched(OPTIONAL + 60, struct.pack("<I", 1 << 30)), "size of its headers"),
        (patched(CERTIFICATES, struct.pack("<II", 0x600, 8)), "signatures are not at its end"),
        (patched(CERTIFICATES, struct.pack("<II", 8, len(IMAGE) - 8)), "signatures are not at"),
        (IMAGE[:-1], "a section reaches beyond its end"),
        (IMAGE[:0x400], "a section reaches beyond its end"),
        (IMAGE[:0x100], "ends inside its headers"),
    ],
)
def test_others_are_refused(image: bytes, reason: str) -> None:
    with pytest.raises(RequestRefused, match="this is no PE image that can be signed") as caught:
        check_image(io.BytesIO(image))
    assert reason in str(caught.value)


@given(st.integers(0, len(IMAGE)))
def test_a_cut_image_is_refused(length: int) -> None:
    file = io.BytesIO(IMAGE[:length])
    if length == len(IMAGE):
        check_image(file)
    else:
        with pytest.raises(RequestRefused):
            check_image(file)


@given(st.integers(0, 0x3FF), st.binary(min_size=1, max_size=8))
def test_whatever_stands_in_the_headers(at: int, value: bytes) -> None:
    image = io.BytesIO(patched(at, value))
    try:
        check_image(image)
    except RequestRefused as refused:
        assert "this is no PE image that can be signed" in str(refused)
    else:
        assert image.tell() == 0


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    make: Callable[[str], Path] = tmp_path.__truediv__
    for name in ("sigul-pe-left", "sigul-pe-used", "other"):
        make(name).mkdir()
        (make(name) / "signed").write_bytes(b"x")
    (tmp_path / "sigul-pe-file").write_bytes(b"not a directory")
    with opened(tmp_path / "sigul-pe-used") as descriptor:
        assert try_lock(descriptor)
        remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "other",
        "sigul-pe-file",
        "sigul-pe-used",
    ]
