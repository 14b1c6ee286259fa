"""The look at a running site from outside: metrics, and the view of its bridge.

`catalogue` lists every metric; `view` is the document of a bridge's state. Neither opens a socket
or a file: who serves and writes them is in `bridge`, `server` and `cli`.
"""
