"""Shared secrets: given as they are, or as `@FILE`, so that they stand in no config and in no list of processes."""

from __future__ import annotations

from pathlib import Path

from crossthink.errors import ConfigError

FROM_FILE = "@"


def read_secret(token: str | None, key: str = "token") -> str | None:
    """The secret that a config's token means; None where it has none.

    Args:
        token: the secret, `@FILE`, or nothing.
        key: what messages call it.

    Raises:
        ConfigError: the file cannot be read, or holds nothing; or the secret cannot stand in a header.
    """
    if not token:
        return None
    secret = _from_file(token, key) if token.startswith(FROM_FILE) else token
    if not (secret.isascii() and secret.isprintable()):
        raise ConfigError(f"{key}= cannot stand in a header: only printable ASCII can.")
    return secret


def _from_file(token: str, key: str) -> str:
    path = Path(token.removeprefix(FROM_FILE))
    try:
        secret = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{key}={token}: {path} cannot be read: {reason}. It must hold the secret.") from error
    if not secret:
        raise ConfigError(f"{key}={token}: {path} is empty. It must hold the secret.")
    return secret
