"""Bytes of other projects' formats, taken apart and put together.

Pure, as `protocol` is: no file, clock, program, key or NSS, and nothing else of the package but
its errors. A parser takes bytes, or is a generator that yields how many bytes it wants next and is
sent exactly those. Whatever bytes come in, only a value or a `ProtocolError` comes out.

* `rpm_head`: an RPM package before its payload; `rpm_lead`, `rpm_header` its parts.
* `file_kinds`: what a file is that is not what was asked for, by its first bytes.
* `ostree_commit`, `commitmeta`: an OSTree commit, and its detached metadata, each a GVariant.
* `container_manifest`: manifests of container images, and the names of images.
* `openpgp_packets`: OpenPGP packets, with the fields that signing needs of them.
* `openpgp_issuer`: the maker of an OpenPGP signature.
* `pe_head`, `authenticode`: the headers of a PE image, and a signature in it.
* `ima_signature`: signatures of files for the kernel's IMA.
"""

from __future__ import annotations
