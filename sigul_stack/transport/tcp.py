"""TCP sockets as all connections here have them: dialled, listening, kept alive."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import struct
import sys
import termios
import time
from typing import Any, Final

from ..errors import DeadlineExceeded, TransportError
from .stream import Deadline

#: Once a connection idles: seconds until the kernel probes it, between probes, and probes lost
#: before it is dead. A peer whose machine vanished is noticed within about a minute.
KEEPALIVE_IDLE_SECONDS: Final = 30
KEEPALIVE_INTERVAL_SECONDS: Final = 10
KEEPALIVE_PROBES: Final = 3

#: Pauses between looks whether sent data has been acknowledged, in seconds; doubled in between.
_FIRST_ACKNOWLEDGE_PAUSE: Final = 0.0001
_LONGEST_ACKNOWLEDGE_PAUSE: Final = 0.005

#: Where the kernel's "struct tcp_info" (linux/tcp.h) has the bytes received, a u64.
_BYTES_RECEIVED: Final = 128

#: Connection attempts that may queue in the kernel at a listening socket.
LISTEN_BACKLOG: Final = 256


def prepare_socket(tcp: socket.socket) -> None:
    """Options of every socket: no Nagle delay (40 ms a step otherwise), keep-alive."""
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


#: The bytes before a TLS record's content; a close-notify has more.
RECORD_HEAD_BYTES: Final = 5


def has_gone(tcp: socket.socket) -> bool:
    """Tell whether the peer has closed its side; data from before may be unread."""
    poll = select.poll()
    poll.register(tcp, select.POLLRDHUP)
    return bool(poll.poll(0))


def is_broken(tcp: socket.socket) -> bool:
    """Tell whether the connection has been reset, or has ended in both directions."""
    poll = select.poll()
    poll.register(tcp, 0)  # POLLERR and POLLHUP are told always
    return bool(poll.poll(0))


def bytes_taken(tcp: socket.socket) -> int:
    """The number of bytes that have been read of a connection, its end counted as one."""
    info = tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
    (received,) = struct.unpack_from("Q", info, _BYTES_RECEIVED)
    return int(received) - bytes_waiting(tcp)


def bytes_waiting(tcp: socket.socket) -> int:
    """The number of bytes that have arrived and that nobody has read."""
    return int.from_bytes(fcntl.ioctl(tcp, termios.FIONREAD, b"\0" * 4), sys.byteorder)


def record_waits(tcp: socket.socket, waiting: int) -> bool:
    """Whether a whole TLS record has arrived, of `waiting` bytes that begin with one.

    A record's head is u8 type, u16 version, u16 length of the rest (RFC 8446, 5.1).
    """
    if waiting < RECORD_HEAD_BYTES:
        return False
    head = tcp.recv(RECORD_HEAD_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return waiting >= RECORD_HEAD_BYTES + int.from_bytes(head[3:5], "big")


def cork(tcp: socket.socket, on: bool) -> None:
    """Have the kernel gather what is written into full segments; not `on`: send it now.

    What fills segments, or the connection's buffer, is sent all the same. Never raises.
    """
    with contextlib.suppress(OSError):
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, int(on))


def is_acknowledged(tcp: socket.socket, timeout: float) -> bool:
    """Wait until the peer's machine has acknowledged all; False after `timeout` seconds."""
    end = time.monotonic() + timeout
    pause = _FIRST_ACKNOWLEDGE_PAUSE
    while struct.unpack("i", fcntl.ioctl(tcp, termios.TIOCOUTQ, b"\0" * 4))[0]:
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_ACKNOWLEDGE_PAUSE)
    return True


def reset_on_close(tcp: socket.socket, on: bool = True) -> None:
    """Have the kernel reset the connection when it is closed, whatever is unread or unsent.

    Otherwise a peer whose window was full when reading ended is neither told of the end nor given
    room to go on, and waits for a minute: the kernel gives no room in a socket that is shut down,
    and resets only one that is closed with input in it.
    """
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", int(on), 0))


def printable_address(address: Any) -> str:
    """`host:port` of a socket address, `[host]:port` for IPv6."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def resolve(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    """The addresses of `host`, for stream sockets, as `socket.getaddrinfo` gives them.

    Has no time limit but the resolver's own. Raises `TransportError` where there is none.
    """
    try:
        # As bytes: for text, Python would load its codec for international names first (3 ms).
        return list(socket.getaddrinfo(host.encode("ascii"), port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeEncodeError) as error:
        raise TransportError(
            f"cannot resolve the host name '{host}': {getattr(error, 'strerror', None) or error}",
            "correct the name, have the machine's hosts file or DNS know it, or set bridge-address"
            " to the address to dial",
            "EAI_AGAIN" if getattr(error, "errno", None) == socket.EAI_AGAIN else "",
        ) from None


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A TCP connection to the first of the host's addresses that answers, within `timeout` s.

    Raises `TransportError` that tells an unknown name from a refused connection.
    """
    deadline = Deadline(timeout, f"connecting to {host}:{port}")
    found = resolve(host, port)
    reasons: list[str] = []
    symbols: list[str] = []
    for index, (family, kind, protocol, _name, address) in enumerate(found):
        tcp = socket.socket(family, kind, protocol)
        try:
            # An address that never answers must leave time for the ones behind it.
            tcp.settimeout(deadline.remaining() / (len(found) - index))
            tcp.connect(address)
            return tcp
        except OSError as error:
            tcp.close()
            late = isinstance(error, TimeoutError)
            reason = "no answer in time" if late else error.strerror
            reasons.append(f"{printable_address(address)}: {reason}")
            symbols.append("ETIMEDOUT" if late else errno_name(error))
        except DeadlineExceeded:
            tcp.close()
            symbols.append("ETIMEDOUT")
            break
    # A machine that refuses at one of its addresses is there.
    telling = (name for name in ("ECONNREFUSED", "ETIMEDOUT") if name in symbols)
    raise TransportError(
        f"cannot connect to {host}:{port} ({', '.join(reasons)})",
        "is it running, and is the port open to this machine?",
        next(telling, symbols[-1]),
    )


def errno_name(error: OSError) -> str:
    """The kernel's name of an error, such as `ECONNREFUSED`; empty where it has none."""
    return errno.errorcode.get(error.errno or 0, "")


def listen(addresses: tuple[str, ...], port: int) -> list[socket.socket]:
    """Listening TCP sockets on `port` of each address; IPv6 ones take no IPv4 connections.

    An address family that the machine does not have is left out, as long as one remains. Raises
    `TransportError` where the port is taken or not allowed.
    """
    sockets: list[socket.socket] = []
    missing: list[str] = []
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                sockets.append(
                    socket.create_server((address, port), family=family, backlog=LISTEN_BACKLOG)
                )
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL) and ":" in address:
                    missing.append(address)
                    continue
                raise TransportError(
                    f"cannot listen on {address} port {port}: {error.strerror}",
                    "is another bridge running, or another program on this port?",
                    errno_name(error),
                ) from None
    except BaseException:
        for item in sockets:
            item.close()
        raise
    if not sockets:
        raise TransportError(f"none of the addresses {', '.join(missing)} exists on this machine")
    return sockets
