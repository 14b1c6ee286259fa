"""Signing, one module a kind of signature. Each is given a key that is open already.

* `signer`: the seam for keys that sign digests: PEM keys, and later tokens.
* `openpgp`: OpenPGP keys, in a GnuPG home; above it `objects` and `rpm`.
* `ima`, `pe`, `x509`: what ECC and RSA keys sign; `issuing_key`: any signer as `x509` needs it.
* `descriptors`: files as the descriptors that programs take.
"""

from __future__ import annotations
