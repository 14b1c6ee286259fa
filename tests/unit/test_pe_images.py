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
from sigul_stack.signing.osslsigncode import remove_leftovers
from sigul_stack.signing.pe import check_image
from sigul_stack.system.files import opened, try_lock
from tests.pe_images import Machine, make_image, make_layout

IMAGE = make_image(Machine.X86_64)
PE = 0x80
OPTIONAL = PE + 24
CERTIFICATES = OPTIONAL + 112 + 4 * 8


def patched(at: int, value: bytes) -> bytes:
    return IMAGE[:at] + value + IMAGE[at + len(value) :]


#: Sections, as places in the file, that consumers hash as they lie there.
FOLLOWING = {
    "one": [(0x400, 0x200)],
    "two": [(0x400, 0x200), (0x600, 0x200)],
    "empty ones": [(0, 0), (0x400, 0x200), (0x90000, 0), (0x600, 0x200), (0x500, 0)],
    "of odd sizes": [(0x400, 0x121), (0x521, 0x1FF)],
}
#: Sections of which they hash other bytes, or the same in another order.
OTHERWISE = {
    "a gap": [(0x400, 0x200), (0x800, 0x200)],
    "a small gap": [(0x400, 0x200), (0x601, 0x200)],
    "a gap behind the headers": [(0x600, 0x200)],
    "an overlap": [(0x400, 0x300), (0x600, 0x200)],
    "one inside another": [(0x400, 0x400), (0x500, 0x100)],
    "the same twice": [(0x400, 0x200), (0x400, 0x200)],
    "in the headers": [(0x200, 0x200), (0x400, 0x200)],
    "at the start": [(0, 0x200), (0x400, 0x200)],
    "in another order": [(0x600, 0x200), (0x400, 0x200)],
}


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
        (
            patched(PE + 4, b"\0\0"),
            "UEFI knows no processor 0x0000 with images of",
        ),
        (patched(PE + 4, b"\x4c\x01"), "UEFI knows no processor 0x014c with images of this kind"),
        (patched(PE + 22, b"\0\0"), "its header says that it cannot be run"),
        (patched(OPTIONAL + 108, struct.pack("<I", 15)), "data directories do not end where"),
        (patched(OPTIONAL + 108, struct.pack("<I", 1 << 31)), "data directories do not end where"),
    ],
)
def test_others_are_refused(image: bytes, reason: str) -> None:
    with pytest.raises(RequestRefused, match="this is no PE image that can be signed") as caught:
        check_image(io.BytesIO(image))
    assert reason in str(caught.value)


def test_an_image_that_is_laid_out_for_no_loader_has_a_cure() -> None:
    """As objcopy makes one without an EFI target."""
    with pytest.raises(RequestRefused, match=r"headers cannot be right; objcopy --file-alignment"):
        check_image(io.BytesIO(patched(OPTIONAL + 60, bytes(4))))


@pytest.mark.parametrize("places", FOLLOWING.values(), ids=FOLLOWING)
def test_sections_that_follow_each_other(places: list[tuple[int, int]]) -> None:
    for length in (0, 0xA00, 0xA03):
        check_image(io.BytesIO(make_layout(places, length=length)))


@pytest.mark.parametrize("places", OTHERWISE.values(), ids=OTHERWISE)
def test_sections_that_do_not_follow_each_other(places: list[tuple[int, int]]) -> None:
    with pytest.raises(RequestRefused, match=r"gap or overlap.*; objcopy --file-alignment"):
        check_image(io.BytesIO(make_layout(places, length=0xC00)))


def test_headers_that_end_before_or_behind_the_first_section() -> None:
    for size in (0x3F0, 0x600):
        with pytest.raises(RequestRefused, match="without gap or overlap"):
            check_image(io.BytesIO(make_layout([(0x400, 0x400)], headers_size=size)))
    check_image(io.BytesIO(make_layout([(0x3F0, 0x400)], headers_size=0x3F0)))


def test_without_sections() -> None:
    for places in ([], [(0x400, 0)]):
        with pytest.raises(RequestRefused, match="it has no sections"):
            check_image(io.BytesIO(make_layout(places, length=0x600)))


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
