"""Where a server listens: its address, its socket, and telling others the port."""

from __future__ import annotations

import errno
import ipaddress
import os
import signal
import socket
import threading
from pathlib import Path

from crossthink.errors import ConfigError
from crossthink.files import atomic_file
from crossthink.procs import PORT_FILE

BACKLOG = 2048
"""Connections that may wait while the server is busy or not yet warm."""


def is_loopback(host: str) -> bool:
    """True for an address that only this machine can reach. Names other than localhost do not count."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_listening(host: str, port: int, token: str | None) -> None:
    """Refuse what no server may listen on. Raises ConfigError naming the key, its value and what is allowed."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port={port} is no TCP port: 0 to 65535.")
    if token is not None and (not token.strip() or "/" in token):
        raise ConfigError("token= is empty or has a '/', which a path token cannot: leave it out, or set a secret.")
    if token is None and not is_loopback(host):
        raise ConfigError(f"host={host} can be reached by others: set token=SECRET, or use host=127.0.0.1.")


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError for a port in use or an address that is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise ConfigError(f"host={host} is no address of this machine ({error.strerror}).") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # at once: two sockets that do not listen yet could share the port
    except OSError as error:
        listener.close()
        if isinstance(error, PermissionError):
            raise ConfigError(f"Port {port} on {host} may not be used by you. Choose port= above 1023.") from error
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                f"Port {port} on {host} is in use. End the other program, or choose another port= or port=0."
            ) from error
        raise ConfigError(f"host={host} port={port} cannot be bound: {error.strerror}.") from error
    return listener


def announce(listener: socket.socket, host: str) -> str:
    """Write the port to the file that `CROSSTHINK_PORT_FILE` names, if any. Returns the server's URL."""
    port = listener.getsockname()[1]
    if path := os.environ.get(PORT_FILE):
        with atomic_file(Path(path)) as handle:
            handle.write(f"{port}\n")
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def end_cleanly() -> None:
    """Have SIGTERM and SIGINT do nothing by themselves: uvicorn, which minds them while it runs, raises the one that
    ended it once more at its end, and the default handlers would turn a clean end into a death.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
