"""Connections: TLS over NSS with deadlines, the chunk layer on top, and the inner session within.

`stream` is the interface, `nss` the real thing (on `tcp` and `nss_database`), `memory` its twin for
tests; `chunked` and `nested` work on either.
"""
