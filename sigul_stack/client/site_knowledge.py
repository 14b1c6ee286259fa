"""Knowledge of a site's peers, as they tell it to a client (docs/protocol.md).

It comes with a reply, at no cost: the server's words in a field, the bridge's behind the reply. It
is kept as long as the process. Nothing here fails a reply, which is whole by then.
"""

from __future__ import annotations

import logging
from typing import Final

from ..errors import ProtocolError, TransportError
from ..logevents import tell
from ..protocol.codec import Fields
from ..protocol.knowledge import read_trailer, words_in
from ..records import dataclass
from ..transport.chunked import ChunkedStream
from ..transport.stream import Deadline
from .log_events import ClientLog

log = logging.getLogger(__name__)

#: Time for the end of a reply's stream, with what the bridge says before it, in seconds. Both come
#: with the reply's last bytes; more is not waited for.
TRAILER_SECONDS: Final = 1.0


@dataclass(slots=True)
class SiteKnowledge:
    """The words of server and bridge, as they said them; None where they have not been heard.

    `server` is of the one that answered last: another may answer next. A bridge that says a word
    sees to it that what needs the word reaches only a server that knows it.
    """

    server: frozenset[str] | None = None
    bridge: frozenset[str] | None = None

    def have(self, word: str) -> bool:
        """Tell whether a request that needs `word` may be sent: server and bridge know it."""
        return word in (self.server or ()) and word in (self.bridge or ())

    def learn(self, chunked: ChunkedStream, fields: Fields, *, trailer: bool) -> None:
        """Note what a verified reply's `fields` tell, and what follows where a `trailer` may.

        A bridge that has told, or told nothing, is not waited for again.
        """
        server = words_in(fields)
        if server is None:
            return
        self.server = server
        if trailer and self.bridge is None:
            self._hear_bridge(chunked)
        tell(log, ClientLog.EXTENSIONS_KNOWN, server=_shown(server), bridge=_shown(self.bridge))

    def _hear_bridge(self, chunked: ChunkedStream) -> None:
        self.bridge = frozenset()
        try:
            deadline = Deadline(TRAILER_SECONDS, "waiting for the end of the reply")
            found = chunked.parse_unless_ended(read_trailer(), deadline)
            self.bridge = words_in(found or {}) or self.bridge
        except (TransportError, ProtocolError) as error:
            tell(log, ClientLog.TRAILER_IGNORED, why=str(error))


def _shown(words: frozenset[str] | None) -> str:
    return ", ".join(sorted(words)) if words else "of no extension"
