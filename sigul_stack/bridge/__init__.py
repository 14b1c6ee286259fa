"""The bridge: where servers wait, clients call, and requests pass without being readable.

    accept ─▶ handshake ─▶ server: wait in the pool ──────────┐
                       └─▶ client: header checked ─▶ paired ──┴─▶ forwarded ─▶ closed

Nobody waits for anybody in an earlier step. The bridge sees headers and payloads, never the inner
session, and imports neither keys nor database.
"""
