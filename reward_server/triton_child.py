"""NeMo-Aligner's endpoint as a child of the server: it takes golds from a file and asks the server over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys

from conf.reward import ServeRewardConfig
from crossthink.errors import ConfigError
from crossthink.procs import PARENT, PORT_FILE


def check(config: ServeRewardConfig, host_is_open: bool) -> None:
    """Refuse what cannot be served. Raises ConfigError naming the key."""
    pytriton = config.pytriton
    if pytriton.port is None:
        if idle := [key for key in ("data", "tokenizer") if getattr(pytriton, key)]:
            raise ConfigError(f"pytriton.{idle[0]}= does nothing without pytriton.port=, which starts the endpoint.")
        return
    if not 1 <= pytriton.port <= 65535:
        raise ConfigError(f"pytriton.port={pytriton.port} is no TCP port: 1 to 65535.")
    for key in ("data", "tokenizer"):
        if not (path := getattr(pytriton, key)):
            raise ConfigError(f"pytriton.{key}= is missing; it is needed with pytriton.port=.")
        if not os.path.exists(path):
            raise ConfigError(f"pytriton.{key}={path} does not exist; it is needed with pytriton.port=.")
    if host_is_open and not pytriton.allow_open:
        raise ConfigError(
            f"host={config.host} can be reached by others, and PyTriton has no authentication: use host=127.0.0.1, or "
            "pytriton.allow_open=true where the network is trusted."
        )


def start(config: ServeRewardConfig, port: int) -> subprocess.Popen | None:
    """The child, or None where none is wanted. It ends with this process, however this process ends.

    Args:
        config: of the server; the child binds the same host.
        port: where the server answers HTTP.
    """
    pytriton = config.pytriton
    if pytriton.port is None:
        return None
    host = "127.0.0.1" if config.host in ("0.0.0.0", "localhost") else config.host
    assert pytriton.data is not None and pytriton.tokenizer is not None  # `check` has seen to it
    words = ["--url", f"http://{host}:{port}", "--data", pytriton.data, "--tokenizer", pytriton.tokenizer]
    words += ["--host", config.host, "--port", str(pytriton.port), "--model", pytriton.model]
    words += ["--allow-open"] if pytriton.allow_open else []
    words += [] if config.invalid_as is None else ["--invalid-as", str(config.invalid_as)]
    environment = {**os.environ, PARENT: str(os.getpid())}
    environment.pop(PORT_FILE, None)
    if config.token is not None:
        environment["CROSSTHINK_TOKEN"] = config.token
    return subprocess.Popen([sys.executable, "-m", "reward_server.protocols.aligner_server", *words], env=environment)
