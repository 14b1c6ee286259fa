"""Layers of images as archives: images/builder/tars.py."""

from __future__ import annotations

import io
import tarfile

from images.builder import tars


def test_an_archive_has_the_same_bytes_whatever_the_order_and_the_clock() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    entries = [tars.directory("a"), tars.file("a/b", b"text", 0o600), tars.link("a/c", "b")]
    tars.write(entries, first, 1000)
    for entry in entries:
        entry.info.mtime = 5000
    tars.write(reversed(entries), second, 1000)
    other = io.BytesIO()
    for entry in entries:
        entry.info.mtime = 1000
    tars.write(entries, other, 1000)
    assert second.getvalue() == other.getvalue()
    assert len(first.getvalue()) == len(second.getvalue())


def test_a_layer_has_no_rights_or_devices() -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        program = tarfile.TarInfo("./usr/bin/su")
        program.mode, program.size = 0o4755, 1
        tar.addfile(program, io.BytesIO(b"x"))
        device = tarfile.TarInfo("./dev/null")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    root = tars.read(io.BytesIO(archive.getvalue()))
    assert {name: entry.info.mode for name, entry in root.items()} == {"usr/bin/su": 0o755}


def test_a_layer_is_what_a_root_has_beyond_the_one_below() -> None:
    below = {"a": tars.file("a", b"1"), "gone": tars.file("gone", b"")}
    root = {"a": tars.file("a", b"1"), "b": tars.file("b", b"2")}
    assert [entry.name for entry in tars.added(root, below)] == ["b"]
    root["a"] = tars.file("a", b"1", 0o755)
    assert [entry.name for entry in tars.added(root, below)] == ["a", "b"]


def test_documentation_goes_but_licences_stay() -> None:
    assert tars.wanted("usr/share/doc/libnss3/copyright")
    assert not tars.wanted("usr/share/doc/libnss3/changelog.Debian.gz")
    assert not tars.wanted("usr/share/man/man1/certutil.1.gz")
    assert not tars.wanted("run/host-ca.pem")
