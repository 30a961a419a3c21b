"""Servers that a run starts for itself: started again when they end, and loud when that does not help."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from conf.reward import RewardConfig
from conf.rollout import ServeRolloutConfig
from conf.train import TrainConfig
from crossthink.errors import UserError
from crossthink.procs import PARENT, PORT_FILE, stop
from crossthink.secret import FROM_FILE, read_secret
from recipes.run_files import tail

START_S = 180.0
"""Long: on a machine full of other work a start alone takes more than a minute."""
POLL_S = 0.1
MOST_RESTARTS = 3
"""Restarts in a row, none of which served a request, before the run is told to end."""
ROLLOUT_START_S = {"local": 120.0, "trtllm": 1800.0}
"""Seconds until a rollout server must answer, by engine: TensorRT-LLM compiles and captures graphs first."""
LOOK_S = 0.5
"""Pause between two questions to the server whether it has served anything yet."""


@dataclass(frozen=True)
class Address:
    """Where an own server listens: its host, and the file with the secret that others than this machine's need."""

    host: str = "127.0.0.1"
    token_file: Path | None = None

    def words(self) -> list[str]:
        """Settings of the server's command."""
        return [f"host={self.host}", *([] if self.token_file is None else [f"token={FROM_FILE}{self.token_file}"])]

    def headers(self) -> dict[str, str]:
        """Of a request to the server."""
        if self.token_file is None:
            return {}
        return {"Authorization": f"Bearer {read_secret(f'{FROM_FILE}{self.token_file}')}"}


class OwnServer:
    """A server process that is started again, on the same port, whenever it ends before the block does.

    After `MOST_RESTARTS` in vain its port answers every request with 410 and the end of its log, so that whoever
    asks, in whatever process, fails at once and says why.

    Args:
        what: how messages call it.
        words: `crossthink`'s command and its settings, but for the port.
        served: found in its `/metrics` once it has served a request.
        log: where its output is appended.
        start_s: seconds until it must answer.
        address: where it listens.
        environment: more variables of its process.
    """

    def __init__(
        self,
        what: str,
        words: Sequence[str],
        served: re.Pattern[str],
        log: Path,
        start_s: float = START_S,
        address: Address | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self._what = what
        self._address = address or Address()
        self._words = [*words, *self._address.words()]
        self._environment = dict(environment or {})
        self._served_pattern = served
        self._start_s = start_s
        self._log = log
        self._process: subprocess.Popen | None = None
        self._port = 0
        self._starts = 0
        self._ending = threading.Event()
        # This thread starts the server again and ends it: the kernel ends a child with the thread that started it.
        self._keeper = threading.Thread(target=self._keep, name=what, daemon=True)

    def launch(self) -> None:
        """Start the process without waiting for it; entering the block waits. Several then get ready side by side."""
        self._scratch = tempfile.TemporaryDirectory()
        try:
            self._process = self._start()
        except BaseException:
            self._scratch.cleanup()
            raise

    def __enter__(self) -> OwnServer:
        if self._process is None:
            self.launch()
        try:
            self._port = self._wait_until_up()
        except BaseException:
            self.end()
            raise
        self._keeper.start()
        return self

    def end(self) -> None:
        """End a process that was launched; leaving the block does it too."""
        if self._process is not None:
            stop(self._process)
        self._scratch.cleanup()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._keeper.join()
        self._scratch.cleanup()

    @property
    def url(self) -> str:
        """Its address, the same over all restarts."""
        return f"http://{self._address.host}:{self._port}"

    @property
    def _child(self) -> subprocess.Popen:
        assert self._process is not None  # it was launched
        return self._process

    def _start(self) -> subprocess.Popen:
        self._starts += 1
        self._port_file = Path(self._scratch.name) / f"port-{self._starts}"
        told = {PARENT: str(os.getpid()), PORT_FILE: str(self._port_file)}
        with open(self._log, "a", encoding="utf-8") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "recipes.cli", *self._words, f"port={self._port}"],
                env={**os.environ, **self._environment, **told},
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the trainer, which still needs its last rewards
            )

    def _wait_until_up(self) -> int:
        deadline = time.monotonic() + self._start_s
        while time.monotonic() < deadline and not self._ending.is_set():
            if self._port_file.is_file():
                return int(self._port_file.read_text())
            if self._child.poll() is not None:
                raise UserError(f"The {self._what} ended with code {self._child.returncode}: {tail(self._log)}")
            time.sleep(POLL_S)
        raise UserError(
            f"The {self._what} did not answer within {self._start_s:g} s: this machine may be too busy. The end of "
            f"{self._log}: {tail(self._log)}"
        )

    def _keep(self) -> None:
        """Start the server again as often as it ends, and end it with the block."""
        restarts, served, look_at = 0, False, 0.0
        try:
            while not self._ending.wait(POLL_S):
                if self._child.poll() is None:
                    if not served and time.monotonic() >= look_at:
                        served, look_at = self._has_served(), time.monotonic() + LOOK_S
                    continue
                restarts = 0 if served else restarts
                served = False
                code = self._child.returncode
                if restarts == MOST_RESTARTS:
                    self._answer_in_its_place(
                        f"this run's own {self._what} ended once more (code {code}), after {restarts} restarts in a "
                        f"row that served no request. The end of {self._log}:\n{tail(self._log)}"
                    )
                    return
                _say(f"the {self._what} ended with code {code} and is started again (its log: {self._log})")
                self._ending.wait(restarts)
                restarts += 1
                self._start_again()
        finally:
            stop(self._child)

    def _start_again(self) -> None:
        self._process = self._start()
        try:
            self._wait_until_up()
        except UserError as error:
            stop(self._process)  # counted by `_keep` like any other end
            if not self._ending.is_set():
                _say(str(error))

    def _has_served(self) -> bool:
        try:
            page = httpx.get(self.url + "/metrics", headers=self._address.headers(), timeout=5.0, trust_env=False)
        except httpx.TransportError:
            return False  # it may just have ended, which `_keep` sees next
        return bool(self._served_pattern.search(page.text))

    def _answer_in_its_place(self, why: str) -> None:
        """Refuse every request until the block ends."""
        _say(why)
        try:
            server = http.server.ThreadingHTTPServer((self._address.host, self._port), _refusing(why))
        except OSError as error:
            _say(f"{self.url} is in use by another program ({error.strerror}).")
            return
        with server:
            threading.Thread(target=server.serve_forever, args=(POLL_S,), daemon=True).start()
            self._ending.wait()
            server.shutdown()


class OwnRewardServer(OwnServer):
    """A run's own reward server.

    Args:
        config: what it judges by, and its workers.
        log: where its output is appended.
        address: where it listens.
    """

    def __init__(self, config: RewardConfig, log: Path, address: Address | None = None):
        shaping = [f"shaping.{key}={_word(value)}" for key, value in asdict(config.shaping).items()]
        words = ["serve-reward", f"match={config.match}", f"workers={config.workers}", *shaping]
        super().__init__("reward server", words, _served("crossthink_reward_requests"), log, address=address)


class OwnRolloutServer(OwnServer):
    """A run's own rollout server, which generates nothing until a refit.

    Args:
        config: the run's.
        model: folder of the model's config and tokenizer.
        log: where its output is appended.
        threads: CPU threads.
        address: where it listens.
        environment: more variables of its process.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: Path,
        log: Path,
        threads: int,
        address: Address | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        rollout = config.rollout
        words = [
            "serve-rollout",
            f"model={model}",
            "weights=refit",
            f"engine={rollout.name}",
            f"batch_size={rollout.batch_size}",
            f"threads={threads}",
            f"max_prompt_tokens={config.max_prompt_tokens}",
            f"max_total_tokens={config.max_prompt_tokens + config.max_response_tokens}",
            f"max_queue={max(ServeRolloutConfig.max_queue, 2 * config.prompts_per_step * config.samples_per_prompt)}",
            f"refit_deadline_s={rollout.refit_deadline_s!r}",
            *([] if rollout.weights_dir is None else [f"weights_dir={rollout.weights_dir}"]),
            *(f"trtllm.{key}={value!r}" for key, value in asdict(rollout.trtllm).items()),
        ]
        start_s = ROLLOUT_START_S[rollout.name]
        served = _served("crossthink_rollout_http_requests")
        super().__init__("rollout server", words, served, log, start_s, address, environment)


def _served(counter: str) -> re.Pattern[str]:
    """Matches a page of metrics on which this counter of requests says that one was answered well."""
    return re.compile(rf'^{counter}_total\{{.*code="200".*\}} (?!0\.0$)', re.MULTILINE)


def _refusing(why: str) -> type[http.server.BaseHTTPRequestHandler]:
    body = json.dumps({"detail": why}).encode("ascii")

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))  # a sender cut off would see no reply
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(http.HTTPStatus.GONE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Refusing


def _word(value: Any) -> str:
    """A number, or a dictionary of numbers by name, in Hydra's grammar."""
    if not isinstance(value, dict):
        return repr(value)
    names = {name: re.sub(r"[\\()\[\]{}:=, \t]", r"\\\g<0>", str(name)) for name in value}
    return "{" + ",".join(f"{names[name]}:{number!r}" for name, number in value.items()) + "}"


def _say(what: str) -> None:
    print(f"crossthink: {what}", file=sys.stderr, flush=True)
