"""`crossthink serve-rollout`: the rollout server as a process."""

from __future__ import annotations

import logging
import math
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from conf.rollout import ENGINES, KV_DTYPES, ServeRolloutConfig
from crossthink.errors import ConfigError, UserError
from crossthink.procs import die_with_told_parent
from crossthink.secret import read_secret
from recipes.models.model_folder import check_model_folder, check_tokenizer_files, is_megatron_folder, read_model_config
from reward_server import logs
from reward_server.listening import BACKLOG, announce, bind, check_listening, end_cleanly

if TYPE_CHECKING:
    from recipes.rollout.server.service import Service

log = logging.getLogger("recipes.rollout.serve")

WEIGHTS = ("folder", "refit")
DEVICES = ("auto", "cpu", "cuda")
MOST_TOKENS = 8192
"""Of a sequence, where neither the config nor the model sets a lower limit."""
LAST_WORDS_S = 5
"""Seconds in which clients of aborted samples should have read why."""
_LEAST = {
    "batch_size": 1,
    "max_prompt_tokens": 1,
    "max_total_tokens": 2,
    "max_queue": 1,
    "max_body_mb": 1,
    "drain_s": 0,
    "token_delay_s": 0,
    "seed": 0,
}


def run(config: ServeRolloutConfig) -> None:
    """Serve until SIGTERM or SIGINT, then give what is under way `drain_s` seconds and end.

    Environment: `CROSSTHINK_PARENT` (a process id) ends the server with that parent; `CROSSTHINK_PORT_FILE` (a path)
    receives the bound port, atomically, once requests are answered.

    Raises:
        ConfigError: before anything starts, for a value out of range, a folder that is no model, a port in use, or an
            address that others can reach without a token.
        UserError: the engine does not start.
    """
    die_with_told_parent()
    config = replace(config, token=read_secret(config.token))
    check(config)
    prompt, total = lengths(config)
    config = replace(config, max_prompt_tokens=prompt, max_total_tokens=total)
    _log_as_json()
    with bind(config.host, config.port) as listener:
        _serve(config, listener)


def check(config: ServeRolloutConfig) -> None:
    """Refuse impossible values. Raises ConfigError naming the key, its value and what is allowed."""
    for key, allowed in (("engine", ENGINES), ("weights", WEIGHTS), ("device", DEVICES)):
        if getattr(config, key) not in allowed:
            raise ConfigError(f"{key}={getattr(config, key)} is not one of {', '.join(allowed)}.")
    for key, least in _LEAST.items():
        if getattr(config, key) is not None and not getattr(config, key) >= least:
            raise ConfigError(f"{key}={getattr(config, key)} is too small: at least {least}.")
    if config.threads is not None and config.threads < 1:
        raise ConfigError(f"threads={config.threads} is too small: at least 1, or null.")
    for key in ("refit_deadline_s", "drain_s", "token_delay_s"):
        if not math.isfinite(getattr(config, key)):
            raise ConfigError(f"{key}={getattr(config, key)} is no finite number of seconds.")
    if not config.refit_deadline_s > 0:
        raise ConfigError(f"refit_deadline_s={config.refit_deadline_s} must be above 0.")
    check_listening(config.host, config.port, config.token)
    if config.weights_dir is not None and not Path(config.weights_dir).is_dir():
        raise ConfigError(f"weights_dir={config.weights_dir} is no folder. It must be there before the server starts.")
    if config.engine == "trtllm" and config.trtllm.kv_cache_dtype not in KV_DTYPES:
        raise ConfigError(f"trtllm.kv_cache_dtype={config.trtllm.kv_cache_dtype} is not one of {', '.join(KV_DTYPES)}.")
    _check_model(config)


def _check_model(config: ServeRolloutConfig) -> None:
    folder = Path(config.model)
    if not folder.is_dir():
        raise ConfigError(f"model={config.model} is no folder. A Hugging Face model folder is needed.")
    if config.weights == "folder":
        if is_megatron_folder(folder):
            raise ConfigError(
                f"model={config.model} holds megatron-core weights. Run `crossthink convert to=huggingface` first."
            )
        check_model_folder(folder, tensor=1, pipeline=1)
    else:
        check_tokenizer_files(folder)
    positions = _positions(folder)
    if config.max_total_tokens is not None and positions is not None and config.max_total_tokens > positions:
        raise ConfigError(
            f"max_total_tokens={config.max_total_tokens} is above the {positions} positions of {config.model} "
            "(max_position_embeddings in its config.json)."
        )
    _, total = lengths(config)
    if config.max_prompt_tokens is not None and config.max_prompt_tokens > total:
        raise ConfigError(
            f"max_prompt_tokens={config.max_prompt_tokens} is above max_total_tokens={total}, which counts prompt and "
            "response."
        )


def lengths(config: ServeRolloutConfig) -> tuple[int, int]:
    """max_prompt_tokens and max_total_tokens, with the model's own where the config leaves them open."""
    total = config.max_total_tokens or min(MOST_TOKENS, _positions(Path(config.model)) or MOST_TOKENS)
    return config.max_prompt_tokens or total - 1, total


def _positions(folder: Path) -> int | None:
    positions = read_model_config(folder).get("max_position_embeddings")
    return positions if isinstance(positions, int) else None


def _serve(config: ServeRolloutConfig, listener: socket.socket) -> None:
    from recipes.models.tokenizer import load_tokenizer, stop_ids
    from recipes.quiet import quiet_libraries
    from recipes.rollout.server.app import create_app
    from recipes.rollout.server.openai_api.words import Words
    from reward_server.guard import GuardedProtocol

    facts = {"engine": config.engine, "model": config.model, "weights": config.weights}
    log.info("starting", extra={"fields": facts})  # a large model takes minutes to load
    quiet_libraries()
    folder = Path(config.model)
    tokenizer = load_tokenizer(folder)
    engine, on_gpu = _engine(config)
    model = config.served_name or folder.resolve().name
    app = create_app(config, engine, Words(tokenizer, stop_ids(tokenizer, folder)), model, on_gpu)
    settings = uvicorn.Config(
        app,
        http=GuardedProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=LAST_WORDS_S,
        backlog=BACKLOG,
    )

    server = _Server(settings, app.state.service, config, listener)
    end_cleanly()
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """Starts the engine before it answers, and ends it when what was under way is done.

    Attributes:
        failure: why the engine did not start.
    """

    def __init__(self, settings: uvicorn.Config, service: Service, served: ServeRolloutConfig, listener: socket.socket):
        super().__init__(settings)
        self._service, self._served, self._listener = service, served, listener
        self.failure: UserError | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            await self._service.engine.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        engine = self._service.engine
        try:
            await engine.start()
        except UserError as error:
            self.failure, self.should_exit = error, True
            return
        await super().startup(sockets)
        url = announce(self._listener, self._served.host)
        version = "none yet" if engine.version is None else engine.version
        facts = f"engine {engine.name}, model {self._service.model}, version {version}"
        print(f"rollout server on {url} ({facts})", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._service.drain(self._served.drain_s)
        await super().shutdown(sockets)


def _engine(config: ServeRolloutConfig) -> tuple[Any, bool]:
    """The engine, not started, and whether its weights lie in GPU memory."""
    if config.engine == "trtllm":
        from recipes.rollout.trtllm.engine import TrtllmServed

        return TrtllmServed(config), True
    import torch

    from recipes.rollout.interface import Limits
    from recipes.rollout.local.engine import LocalEngine
    from recipes.rollout.local.served import LocalServed, load_folder

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    on_gpu = torch.cuda.is_available() if config.device == "auto" else config.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError("device=cuda: torch sees no GPU here. Leave it out, or device=cpu.")
    folder = Path(config.model)
    engine = LocalEngine(folder, torch.device("cuda" if on_gpu else "cpu"), config.batch_size)
    if config.weights == "folder":
        load_folder(engine, folder)
    prompt, total = lengths(config)
    limits = Limits(prompt, total, read_model_config(folder)["vocab_size"])
    return LocalServed(engine, limits, token_delay_s=config.token_delay_s), on_gpu


def _log_as_json() -> None:
    """This server's records and uvicorn's to stderr, one JSON object a line."""
    logs.configure()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logs.JsonLines())
    logger = logging.getLogger("recipes.rollout")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
