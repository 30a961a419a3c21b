"""A scripted OpenAI-compatible endpoint: `python synth_endpoint.py --port-file F --log LOG --script NAME|JSON`.

What it does with a request depends on the request alone (its messages and its seed): a number made of them falls into
the share of one outcome. A test that knows the request therefore knows the outcome (`Chat.outcome`).

The script is a JSON object, or the name of one in SCRIPTS:
    shares: outcome → share of all requests, or purpose → such an object ("*": any other purpose). The rest is `right`.
    brain: what writes the text: a name in BRAINS, or FILE.py:FUNCTION; called as `brain(chat, outcome)`.
    purpose: FILE.py:FUNCTION, called as `purpose(chat)`; without it the name of the schema is the purpose.
    delay_s, late_s: before every answer, before one that is `late`.
    retry_after: seconds that a 429 asks to wait.
    dies_after: requests after which the process ends.
    takes_schema: false: response_format is answered with 400.
    usage: false leaves the counts of tokens out.
    reasoning: sent apart with every answer.
    models, key: names that are listed; the bearer token that is wanted.
Outcomes that the server knows are the constants below; any other, like `right` and `wrong`, is the brain's.
Every request for a completion is a line of LOG before it is answered: key, purpose, outcome, time (how often it came).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from crossthink.procs import PARENT, die_with_told_parent

RIGHT, WRONG, PROSE, MISFIT, LATE = "right", "wrong", "prose", "misfit", "late"
BUSY, BROKEN, DOWN = "busy", "broken", "down"  # 429 once, 500 once, 503 for ever
REFUSAL, FILTERED, BAD_REQUEST, CUT_OFF = "refusal", "filtered", "bad_request", "cut_off"

SCRIPTS: dict[str, dict[str, Any]] = {
    "right": {},
    "mixed": {
        "shares": {WRONG: 0.1, PROSE: 0.1, MISFIT: 0.05, BUSY: 0.1, BROKEN: 0.05, REFUSAL: 0.05, CUT_OFF: 0.05},
        "retry_after": 0.05,
    },
}


@dataclass(frozen=True)
class Chat:
    """A request, as far as what it comes to depends on it."""

    messages: list[dict[str, str]]
    seed: int | None
    schema_name: str | None = None

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps([self.messages, self.seed], sort_keys=True).encode()).hexdigest()

    @property
    def last(self) -> str:
        """The last message's words."""
        return self.messages[-1]["content"]

    def number(self, name: str) -> float:
        """From 0 to 1, the same for the same request and name."""
        return int(hashlib.sha256(f"{self.key}/{name}".encode()).hexdigest()[:8], 16) / (1 << 32)

    def outcome(self, shares: dict[str, Any], purpose: str = "") -> str:
        """What comes of it."""
        if any(isinstance(one, dict) for one in shares.values()):
            shares = shares.get(purpose, shares.get("*", {}))
        left = self.number("outcome")
        for outcome, share in shares.items():
            left -= share
            if left < 0:
                return outcome
        return RIGHT


def echo(chat: Chat, outcome: str) -> str:
    """The last message, or the outcome's name where it is not to be right; as JSON where that is asked for."""
    answer = chat.last if outcome == RIGHT else outcome
    return json.dumps({"answer": answer}) if chat.schema_name or "JSON" in chat.last else answer


BRAINS: dict[str, Callable[[Chat, str], str]] = {"echo": echo}


def function_of(name: str) -> Callable[..., str]:
    """The function that FILE.py:FUNCTION names."""
    file, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, function)


class Server(ThreadingHTTPServer):
    """Answers by a script, on the loopback interface."""

    daemon_threads = True
    request_queue_size = 512  # as many clients may connect at a time

    def __init__(self, script: dict[str, Any], log: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        brain = script.get("brain", "echo")
        self.brain = BRAINS[brain] if brain in BRAINS else function_of(brain)
        self.purpose = function_of(script["purpose"]) if "purpose" in script else lambda chat: chat.schema_name or ""
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.lock, self.seen, self.count = threading.Lock(), Counter(), 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A killed client is no error of this server."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def note(self, chat: Chat, purpose: str, outcome: str) -> int:
        """Write a request down; how often it came until now."""
        with self.lock:
            self.count += 1
            self.seen[chat.key] += 1
            line = {"key": chat.key, "purpose": purpose, "outcome": outcome, "time": self.seen[chat.key]}
            os.write(self.log, (json.dumps(line) + "\n").encode())
            if self.count > self.script.get("dies_after", sys.maxsize):
                os._exit(1)
            return self.seen[chat.key]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: Any) -> None:
        pass

    def send(self, status: int, value: Any, **headers: Any) -> None:
        body = json.dumps(value).encode("ascii")
        self.send_response(status)
        for name, text in {**headers, "content-type": "application/json", "content-length": len(body)}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a client that would not wait
            self.wfile.write(body)

    def refuse(self, status: int, message: str, **headers: Any) -> None:
        self.send(status, {"error": {"message": message, "type": "x", "param": None, "code": None}}, **headers)

    def has_key(self) -> bool:
        key = self.server.script.get("key")
        if key is None or self.headers["authorization"] == f"Bearer {key}":
            return True
        self.refuse(401, "Incorrect API key provided")
        return False

    def do_GET(self) -> None:
        if self.has_key():
            listed = [{"id": name, "object": "model"} for name in self.server.script.get("models", ["small"])]
            self.send(200, {"object": "list", "data": listed})

    def do_POST(self) -> None:
        sent = self.rfile.read(length := int(self.headers["content-length"]))
        if len(sent) < length:
            raise ConnectionAbortedError("the client was killed while it sent")
        body = json.loads(sent)
        if not self.has_key():
            return
        script, asked_format = self.server.script, body.get("response_format")
        schema_name = asked_format["json_schema"]["name"] if asked_format else None
        if asked_format and not script.get("takes_schema", True):
            return self.refuse(400, "response_format is not supported")
        chat = Chat(body["messages"], body.get("seed"), schema_name)
        purpose = self.server.purpose(chat)
        outcome = chat.outcome(script.get("shares", {}), purpose)
        times = self.server.note(chat, purpose, outcome)
        time.sleep(script.get("late_s", 5.0) if outcome == LATE else script.get("delay_s", 0.0))
        if outcome == BUSY and times == 1:
            return self.refuse(429, "too many requests", retry_after=script.get("retry_after", 0.05))
        if outcome == BROKEN and times == 1:
            return self.refuse(500, "something broke")
        if outcome == DOWN:
            return self.refuse(503, "nobody is here")
        if outcome == BAD_REQUEST:
            return self.refuse(400, "the prompt is too long")
        self.send(200, self.completion(chat, body, outcome))

    def completion(self, chat: Chat, body: dict[str, Any], outcome: str) -> dict[str, Any]:
        script = self.server.script
        message: dict[str, Any] = {"role": "assistant", "content": self.text(chat, outcome)}
        if script.get("reasoning"):
            message["reasoning_content"] = script["reasoning"]
        if outcome == REFUSAL:
            message |= {"content": None, "refusal": "I cannot help with that."}
        reason = {CUT_OFF: "length", FILTERED: "content_filter"}.get(outcome, "stop")
        choice = {"index": 0, "message": message, "finish_reason": reason}
        found = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        if script.get("usage", True):
            prompt, completion = tokens(chat, message["content"] or "", outcome, body["max_tokens"])
            found["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return found

    def text(self, chat: Chat, outcome: str) -> str:
        if outcome == PROSE:
            return "That is, I believe, a matter of taste."
        if outcome == MISFIT:
            return '{"unexpected": true}'
        told = RIGHT if outcome in (LATE, BUSY, BROKEN, CUT_OFF, FILTERED, REFUSAL) else outcome
        text = self.server.brain(chat, told)
        return text[: len(text) // 2] if outcome == CUT_OFF else text


def tokens(chat: Chat, text: str, outcome: str, max_tokens: int) -> tuple[int, int]:
    """Of prompt and completion, as this server counts them."""
    prompt = 1 + sum(len(one["content"]) for one in chat.messages) // 4
    return prompt, max_tokens if outcome == CUT_OFF else min(max_tokens, 1 + len(text) // 4)


@dataclass(frozen=True)
class Running:
    """A server that runs in a process of its own."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def lines(self) -> list[dict[str, Any]]:
        """Every request until now."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.is_file() else []


@contextlib.contextmanager
def synth_endpoint(folder: Path, **script: Any) -> Iterator[Running]:
    """A server with this script, which ends with the block."""
    place = folder / f"endpoint-{time.monotonic_ns()}"
    log, port_file = place.with_suffix(".log"), place.with_suffix(".port")
    words = ["--port-file", port_file, "--log", log, "--script", json.dumps(script)]
    process = subprocess.Popen([sys.executable, __file__, *words], env={**os.environ, PARENT: str(os.getpid())})
    try:
        end = time.monotonic() + 60
        while not port_file.is_file():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        yield Running(f"http://127.0.0.1:{port_file.read_text()}/v1", log, process)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--script", required=True)
    words = parser.parse_args()
    script = SCRIPTS[words.script] if words.script in SCRIPTS else json.loads(words.script)
    die_with_told_parent()
    server = Server(script, words.log)
    aside = words.port_file.with_suffix(".tmp")
    aside.write_text(str(server.server_port))
    aside.rename(words.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
