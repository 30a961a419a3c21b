"""`crossthink serve-reward`: the reward server as a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
import subprocess
from dataclasses import replace

import uvicorn

from conf.reward import ServeRewardConfig
from crossthink.errors import ConfigError, UserError
from crossthink.procs import die_with_told_parent, stop
from crossthink.secret import read_secret
from reward_server import logs, shaping, triton_child
from reward_server.app import create_app
from reward_server.guard import GuardedProtocol
from reward_server.listening import BACKLOG, announce, bind, check_listening, end_cleanly, is_loopback
from reward_server.verdicts import MATCHES

log = logging.getLogger(__name__)

GC_THRESHOLD = (5_000, 10, 10)
"""Of Python's garbage collector: a batch makes thousands of objects and hardly a cycle."""
_LEAST = {
    "workers": 1,
    "worker_memory_mb": 64,
    "max_items": 1,
    "max_body_mb": 1,
    "max_response_chars": 1,
    "max_queue": 1,
    "drain_s": 0,
}


def run(config: ServeRewardConfig) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and end with no worker left.

    Environment: `CROSSTHINK_PARENT` (a process id) ends the server with that parent; `CROSSTHINK_PORT_FILE` (a path)
    receives the bound port, atomically, once requests are answered.

    Raises:
        ConfigError: before anything starts, for a value out of range, a port in use, or an address that others can
            reach without a token.
        UserError: the workers, or NeMo-Aligner's endpoint, do not start.
    """
    die_with_told_parent()
    config = replace(config, token=read_secret(config.token))
    check(config)
    logs.configure()
    with bind(config.host, config.port) as listener:
        server = _Server(config, listener)
        end_cleanly()
        server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


def check(config: ServeRewardConfig) -> None:
    """Refuse impossible values. Raises ConfigError naming the key, its value and what is allowed."""
    if config.match not in MATCHES:
        raise ConfigError(f"match={config.match} is not one of {', '.join(MATCHES)}.")
    shaping.check(config.shaping)
    for key, least in _LEAST.items():
        if getattr(config, key) < least:
            raise ConfigError(f"{key}={getattr(config, key)} is too small: at least {least}.")
    for key in ("deadline_s", "drain_s"):
        if not math.isfinite(getattr(config, key)):
            raise ConfigError(f"{key}={getattr(config, key)} is no finite number of seconds.")
    if not config.deadline_s > 0:
        raise ConfigError(f"deadline_s={config.deadline_s} must be above 0.")
    if config.invalid_as is not None and not math.isfinite(config.invalid_as):
        raise ConfigError(f"invalid_as={config.invalid_as} is no finite number.")
    check_listening(config.host, config.port, config.token)
    triton_child.check(config, not is_loopback(config.host))


class _Server(uvicorn.Server):
    """Starts the workers before it answers and ends them last; says where it listens and when it takes no more.

    NeMo-Aligner's endpoint, where it is wanted, stands beside it.

    Attributes:
        failure: why it did not start, or ended where nobody had asked it to.
    """

    def __init__(self, config: ServeRewardConfig, listener: socket.socket):
        app = create_app(config)
        super().__init__(
            uvicorn.Config(
                app,
                http=GuardedProtocol,
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=math.ceil(config.drain_s),
                backlog=BACKLOG,
            )
        )
        self._served, self._listener, self._service = config, listener, app.state.service
        self._triton: subprocess.Popen | None = None
        self.failure: UserError | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            await self._service.__aexit__()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        log.info("starting", extra={"fields": {"workers": self._served.workers, "warm_up": self._served.warm_up}})
        try:
            await self._service.__aenter__()
        except UserError as error:
            self.failure, self.should_exit = error, True
            return
        await super().startup(sockets)
        if not self.started:
            return
        gc.collect()
        gc.freeze()  # what is there now stays: looking through it again and again would cost 40 ms each time
        gc.set_threshold(*GC_THRESHOLD)
        self._triton = triton_child.start(self._served, self._listener.getsockname()[1])
        url = announce(self._listener, self._served.host)
        rules = self._service.rules_hash
        print(f"reward server on {url} (rules {rules}, match {self._served.match})", flush=True)

    async def on_tick(self, counter: int) -> bool:
        if self._triton is not None and (code := self._triton.poll()) is not None and not self.should_exit:
            self.failure = UserError(f"NeMo-Aligner's endpoint ended with code {code}; its own message is above.")
            return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._triton is not None:
            await asyncio.to_thread(stop, self._triton)
        self._service.ready = False
        await super().shutdown(sockets)
