"""A rollout server that speaks the contract with made-up tokens, in a process of its own, and fails as it is told to.

Run as a program it is the server, on the standard library alone; `FakeServer` starts one.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request

from crossthink.procs import die_with_parent, stop

TICK_S = 0.02
ALIVE_S = 0.1
HONEST = {
    "version": 7,
    "answer": "honest",
    "after": 0,
    "delay_s": 0.0,
    "status": None,
    "headers": {},
    "times": 1,
    "most": None,
}
"""What a script changes.

version: weight version, null: none.
answer: honest, or what happens once `after` samples were sent in all: die (SIGKILL), break (close the connection), hang
    (not a word), hold (`alive` lines until released), error (an error line), short (`done` with samples missing),
    or a name in `GARBAGE`.
delay_s: seconds before each sample.
status: a reply to the first `times` requests instead of a stream, with these `headers`.
most: samples that may be under way; a request that would pass it is answered 429.
"""


def tokens(body: dict, prompt: int, sample: int, budget: int) -> dict:
    """The line of a sample: drawn from the numbers that key it, and nothing else."""
    sampling = body["sampling"]
    draw = random.Random(f"{sampling['seed']} {sampling['step']} {prompt} {sample}")
    length = draw.randint(1, budget + 2)
    plain = [one for one in range(sampling["vocabulary"]) if one not in sampling["stop_ids"]]
    ids = [draw.choice(plain) for _ in range(min(length, budget))]
    finish = "length"
    if length <= budget:
        ids[-1], finish = draw.choice(sampling["stop_ids"]), "stop"
    log_probs = [-draw.random() for _ in ids]
    return {"prompt": prompt, "sample": sample, "token_ids": ids, "log_probs": log_probs, "finish_reason": finish}


def _with(**changes):
    return lambda line: json.dumps({**line, **changes}).encode()


GARBAGE = {
    "not_json": lambda line: b"<html>",
    "no_object": lambda line: b"[1, 2]",
    "unknown_kind": lambda line: b'{"hello": 1}',
    "long_line": lambda line: b"x" * 2_000_000,
    "not_asked": _with(prompt=10**6),
    "no_numbers": _with(sample=None),
    "beyond_vocabulary": lambda line: _with(token_ids=[10**6, *line["token_ids"][1:]])(line),
    "boolean_id": lambda line: _with(token_ids=[True, *line["token_ids"][1:]])(line),
    "empty": _with(token_ids=[], log_probs=[]),
    "too_long": lambda line: _with(token_ids=[5] * 999, log_probs=[-1.0] * 999, finish_reason="length")(line),
    "a_log_prob_less": lambda line: _with(log_probs=line["log_probs"][1:])(line),
    "infinite": lambda line: _with(log_probs=["-1e999", *line["log_probs"][1:]])(line).replace(b'"-1e999"', b"-1e999"),
    "not_a_number": lambda line: _with(log_probs=[float("nan"), *line["log_probs"][1:]])(line),
    "text_log_prob": lambda line: _with(log_probs=["0.1", *line["log_probs"][1:]])(line),
    "finish": _with(finish_reason="done"),
    "wrong_finish": lambda line: _with(finish_reason="length" if line["finish_reason"] == "stop" else "stop")(line),
    "stale": _with(weight_version=6),
    "no_version": _with(weight_version=None),
}


class _State:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.reset({})

    def reset(self, script: dict) -> None:
        self.script = {**HONEST, **script, "under_way": 0}
        self.released.clear()
        self.sent, self.refusals, self.gone = 0, 0, 0
        self.bodies: list[dict] = []
        self.headers: list[dict] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: _State

    def do_GET(self) -> None:
        script = self.state.script
        if self.path == "/healthz":
            return self.reply(200, {"status": "ok", "engine": "fake", "version": script["version"], "running": 0})
        if self.path == "/v1/refit":
            return self.reply(200, {"engine": "fake", "version": script["version"], "ranks": 1})
        state = self.state
        seen = {"bodies": state.bodies, "sent": state.sent, "gone": state.gone, "headers": state.headers}
        return self.reply(200, seen)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/script":
            self.state.reset(body)
            return self.reply(200, {})
        if self.path == "/release":
            self.state.released.set()
            return self.reply(200, {})
        return self.generate(body)

    def generate(self, body: dict) -> None:
        state, script = self.state, self.state.script
        with state.lock:
            state.headers.append(dict(self.headers))
            refused = script["status"] is not None and state.refusals < script["times"]
            state.refusals += refused
            samples = sum(len(group["samples"]) for group in body["groups"])
            full = script["most"] is not None and script["under_way"] + samples > script["most"]
            if not refused and not full:
                state.bodies.append(body)
                script["under_way"] += samples
        if refused:
            return self.reply(script["status"], {"detail": "as the script says"}, script["headers"])
        if full:
            return self.reply(429, {"detail": "full"}, {"Retry-After": "0"})
        try:
            return self.answer(body, script)
        finally:
            with state.lock:
                script["under_way"] -= samples

    def answer(self, body: dict, script: dict) -> None:
        state = self.state
        if script["version"] is None:
            return self.reply(503, {"detail": "no whole weights"}, {"Retry-After": "1"})
        if body.get("version", script["version"]) != script["version"]:
            return self.reply(409, {"detail": "another version", "version": script["version"]})
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(body, script)
        except OSError:
            with state.lock:
                state.gone += 1
            self.close_connection = True

    def stream(self, body: dict, script: dict) -> None:
        wanted = []
        for group in body["groups"]:
            budgets = group.get("max_tokens", [body["sampling"]["max_tokens"]] * len(group["samples"]))
            wanted += [(group["prompt"], *pair) for pair in zip(group["samples"], budgets, strict=True)]
        random.Random(len(wanted)).shuffle(wanted)
        for prompt, sample, budget in wanted:
            time.sleep(script["delay_s"])
            line = {**tokens(body, prompt, sample, budget), "weight_version": script["version"]}
            with self.state.lock:
                due = script["answer"] != "honest" and self.state.sent >= script["after"]
                self.state.sent += not due
            if due and not self.misbehave(script["answer"], line):
                return
            self.line(json.dumps(line).encode())
        self.line(json.dumps({"done": len(wanted)}).encode())
        self.chunk(b"")

    def misbehave(self, answer: str, line: dict) -> bool:
        """Do what the script says. True: go on honestly."""
        if answer == "die":
            os.kill(os.getpid(), 9)
        if answer in ("hang", "hold"):
            told = time.monotonic()
            while not self.state.released.wait(TICK_S):
                if answer == "hold" and time.monotonic() - told > ALIVE_S:
                    self.line(b'{"alive": 1}')
                    told = time.monotonic()
            return True
        last = {"error": b'{"error": "the engine broke"}', "short": b'{"done": 1}'}
        if answer != "break":
            self.line(last[answer] if answer in last else GARBAGE[answer](line))
        self.close_connection = True
        return False

    def line(self, line: bytes) -> None:
        self.chunk(line + b"\n")

    def chunk(self, part: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.flush()

    def reply(self, status: int, fields: dict, headers: dict | None = None) -> None:
        body = json.dumps(fields).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class FakeServer:
    """A fake rollout server in its own process. Start it from the main thread: it dies with the thread."""

    def __init__(self, port: int = 0) -> None:
        root = os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3))
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(os.getpid()), str(port)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        self.pid = self._process.pid

    def script(self, **changes: object) -> None:
        """Behave so from now on, and forget what was seen."""
        assert changes.keys() <= HONEST.keys()
        self._call("/script", changes)

    def release(self) -> None:
        """Let whatever hangs or is held go on."""
        self._call("/release", {})

    def seen(self) -> dict:
        """`bodies` and `headers` of the requests, samples `sent`, streams whose client has `gone`."""
        return self._call("/seen", None)

    def groups(self) -> list[dict]:
        """Every group that it was asked for."""
        return [group for body in self.seen()["bodies"] for group in body["groups"]]

    def dead(self) -> bool:
        """Whether its process has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """End it."""
        stop(self._process, 2.0)
        self._process.stdout.close()

    def _call(self, path: str, body: dict | None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.url + path, data), timeout=30) as reply:
            return json.load(reply)


def main() -> None:
    """Serve until the parent ends: arguments are its process id and the port."""
    die_with_parent(int(sys.argv[1]))
    _Handler.state = _State()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
