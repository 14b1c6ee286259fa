"""Keys and what unlocks them: the two key stores, users' envelopes and bindings.

The modules here are imported one by one by those who need them: the client uses
`keystore.bindings` and must not pay for the rest. So this package itself imports nothing.
"""

from __future__ import annotations
