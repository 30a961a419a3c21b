"""NeMo-Aligner's reward model as a process: PyTriton in front of reward servers. See `--help`.

PyTriton has no authentication, so an address that others can reach needs `--allow-open`. The reward servers' own secret
comes from the environment, `CROSSTHINK_TOKEN`, where other users of the machine do not see it. `CROSSTHINK_PARENT` (a
process id) ends this process, and with it Triton, when that parent is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from crossthink.errors import EXIT_DONE, ConfigError, UserError
from crossthink.procs import PARENT
from reward_server.client import RewardClient
from reward_server.listening import bind, is_loopback
from reward_server.protocols.aligner import Rewarder
from reward_server.protocols.gold_book import GoldBook
from reward_server.protocols.tokenizer import Tokenizer
from reward_server.verdicts import Item

MAX_BATCH = 65_536
"""Sequences that Triton puts together into one call."""
QUEUE_DELAY_US = 2000
"""Microseconds that Triton waits for more of them; NeMo-Aligner's own default."""
WATCH_S = 1.0
"""Seconds between two looks at whether the parent and Triton are still there."""
PROBE = Item("probe", "open", "<think></think>\\boxed{yes}", ("yes",), source="probe", response_tokens=0)
"""Judged once at the start: servers that do not answer, or want another token, are found before Triton is up."""
INSTALL = "NeMo-Aligner's protocol needs the package 'nvidia-pytriton' (Linux): pip install nvidia-pytriton"


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, SIGINT or the parent's end. Returns the exit code; errors go to standard error."""
    args = parser().parse_args(arguments)
    try:
        serve(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return EXIT_DONE


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(
        prog="python -m reward_server.protocols.aligner_server", description=__doc__, allow_abbrev=False
    )
    words.add_argument("--url", action="append", required=True, help="a reward server; may be given several times")
    words.add_argument("--data", required=True, help="a pool folder, or a JSONL file of the trainer's rows")
    words.add_argument("--tokenizer", required=True, help="folder with the tokenizer that makes the tokens")
    words.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
    words.add_argument("--port", type=int, default=5555, help="TCP port (%(default)s, NeMo-Aligner's own)")
    words.add_argument("--model", default="reward_model", help="name under which Triton serves (%(default)s)")
    words.add_argument("--allow-open", action="store_true", help="serve on a non-loopback address, without a secret")
    words.add_argument("--invalid-as", type=float, help="number that stands for items that cannot be judged")
    words.add_argument("--deadline-s", type=float, default=60.0, help="seconds for one request (%(default)s)")
    return words


def serve(args: argparse.Namespace) -> None:
    """Bind and serve.

    Raises:
        UserError: PyTriton is missing, the address is open, the data or the tokenizer cannot be read, the reward
            servers do not answer, or Triton does not start or ends.
    """
    check(args)
    print(f"reading {args.data}", flush=True)
    tokenizer = Tokenizer(args.tokenizer)
    book = GoldBook.open(args.data, tokenizer)
    token = os.environ.get("CROSSTHINK_TOKEN")
    with RewardClient(args.url, deadline_s=args.deadline_s, token=token, group="") as client:
        client.score([PROBE])
        done = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: done.set())
        rewarder = Rewarder(book, tokenizer, client.score, args.invalid_as)
        triton = _start(args, rewarder)
        try:
            print(
                f"NeMo-Aligner rewards on http://{args.host}:{args.port} ({args.model}, {book.questions} questions)",
                flush=True,
            )
            _watch(triton, done)
        finally:
            triton.stop()


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be served. Raises ConfigError naming the argument and what is allowed."""
    if not is_loopback(args.host) and not args.allow_open:
        raise ConfigError(
            f"--host {args.host} can be reached by others, and PyTriton has no authentication: "
            "use 127.0.0.1, or --allow-open where the network is trusted."
        )
    if not 0 < args.port < 65536:
        raise ConfigError(f"--port {args.port} is no TCP port: 1 to 65535.")
    if not args.deadline_s > 0:
        raise ConfigError(f"--deadline-s {args.deadline_s} must be above 0.")
    _pytriton("triton")
    wanted = importlib.metadata.requires("nvidia-pytriton") or []
    if int(np.__version__.split(".")[0]) >= 2 and any(one.startswith("numpy") and "<2" in one for one in wanted):
        raise ConfigError(
            f"numpy {np.__version__} is installed, and this PyTriton needs one below 2: with another it hands on wrong "
            "arrays without an error. Install 'numpy<2' here, or start this process from NeMo-Aligner's environment."
        )


def _start(args: argparse.Namespace, rewarder: Rewarder) -> Any:
    """Triton, once it answers."""
    bind(args.host, args.port).close()  # says it clearly where the port is in use, which Triton does not
    find_libpython()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns at every fork of PyTriton's
    decorators, configs, common, server = map(
        _pytriton, ("decorators", "model_config", "model_config.common", "triton")
    )

    @decorators.batch
    def infer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return rewarder(**inputs)

    def tensor(name: str, kind: Any, optional: bool = True) -> Any:
        return configs.Tensor(name=name, shape=(-1,) if optional else (1,), dtype=kind, optional=optional)

    triton = server.Triton(
        config=server.TritonConfig(
            allow_http=True, allow_grpc=False, allow_metrics=False, http_address=args.host, http_port=args.port
        )
    )
    try:
        triton.bind(
            model_name=args.model,
            infer_func=infer,
            inputs=[tensor("sentences", bytes), tensor("tokens", np.int64), tensor("sequence_lengths", np.int64)],
            outputs=[tensor("rewards", np.float32, optional=False)],
            config=configs.ModelConfig(
                batching=True,
                max_batch_size=MAX_BATCH,
                batcher=common.DynamicBatcher(max_queue_delay_microseconds=QUEUE_DELAY_US),
            ),
            strict=True,
        )
        triton.run()
    except Exception as error:  # PyTriton raises many kinds
        with contextlib.suppress(Exception):  # what did not start may fail to stop, too; the first error tells more
            triton.stop()
        raise UserError(
            f"Triton did not start on {args.host}:{args.port}: {error}. Its log above may say why."
        ) from error
    return triton


def _watch(triton: Any, done: threading.Event) -> None:
    """Wait for a signal or the parent's end. Raises UserError where Triton ends first."""
    parent = os.environ.get(PARENT)
    while not done.wait(WATCH_S):
        if parent is not None and os.getppid() != int(parent):
            return
        if not triton.is_alive():
            raise UserError("Triton has ended. Its log above says why; start this process again.")


def find_libpython() -> None:
    """Triton's Python stub loads libpython by its name, and finds another one, or none, without this."""
    folder = sysconfig.get_config_var("LIBDIR")
    paths = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if folder and folder not in paths:
        os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [folder, *paths]))


def _pytriton(name: str) -> ModuleType:
    try:
        return importlib.import_module(f"pytriton.{name}")
    except ModuleNotFoundError as error:
        raise ConfigError(f"{INSTALL} ({error}).") from error


if __name__ == "__main__":
    sys.exit(main())
