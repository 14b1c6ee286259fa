"""Bytes ↔ messages of the Sigul wire protocol, version 1 (docs/protocol.md).

No socket, clock, file, thread or NSS in here, and nothing else of the package but its errors: a
parser is a generator that asks for bytes (`codec.Parser`), so that the same code serves a blocking
TLS socket, a pump that is fed and a property test. Whatever bytes come in, only a value or a
`ProtocolError` comes out, and nothing that a peer announces is allocated before it has arrived.
"""
