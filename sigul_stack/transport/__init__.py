"""Connections: TLS over NSS with deadlines, the chunk layer on top, and the inner session within.

`stream` is the interface, `nss` the real thing (on `tcp`, `nss_database` and `nss_errors`),
`memory` its twin for tests; `chunked` and `nested` work on either.
"""
