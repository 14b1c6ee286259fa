"""The signing server: a supervisor, and worker processes that serve one request each.

    supervisor ─fork─▶ worker: open NSS, drop privileges, dial, handshake, wait
                               ─▶ request: receive ─▶ authorise ─▶ handle ─▶ reply ─▶ exit

A worker that crashes costs its request and nothing else; what it knew goes with it.
"""
