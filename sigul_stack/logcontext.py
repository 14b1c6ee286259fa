"""The request that the current thread is working on, for the log.

Bridge and server set it when a request begins; the log's formatter reads it. A new thread starts
without one: whoever starts it for a request sets it there again. Imports nothing of the package.
"""

from __future__ import annotations

from contextvars import ContextVar

#: The request's id, empty outside a request.
request_id: ContextVar[str] = ContextVar("sigul_request_id", default="")
