"""Servers that fail in ways that the real one must not."""

import http.server
import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Seen:
    """What a scripted server was asked: bodies, and when they came. `most` is how many at a time."""

    url: str = ""
    bodies: list = field(default_factory=list)
    times: list = field(default_factory=list)
    now: int = 0
    most: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ids(self):
        """The request ids in the order in which they came."""
        return [body["request_id"] for body in self.bodies]


def verdict(ident, **changes):
    """A verdict as a server sends it."""
    one = {"reward": 1.0, "accuracy": 1, "format": 1, "extracted": "5", "status": "correct", "elapsed_ms": 0.1}
    return {"id": ident, **one, **changes}


def reply(*idents):
    """An answer with a verdict for each id."""
    return 200, {"rules_hash": "h", "items": [verdict(ident) for ident in idents]}


def honest(body):
    """The answer of a server in order."""
    return reply(*(item["id"] for item in body["items"]))


def half(handler):
    """Close the connection in the middle of a reply."""
    data = json.dumps(reply("a")[1]).encode()
    handler.send_response(200)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def drop(handler):
    """Close the connection without a word."""
    handler.close_connection = True


def drip(handler):
    """Send a reply byte by byte, never ending."""
    handler.send_response(200)
    handler.send_header("content-length", "1000000")
    handler.end_headers()
    try:
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)
    except OSError:
        handler.close_connection = True


@contextmanager
def fake(script, health=None):
    """A server that gives one answer of `script` after the other, the last one for ever; yields its `Seen`.

    An answer is (status, body), (status, body, headers), a function of the handler that answers itself (`half`, …),
    or a function of the request's body that returns an answer (`honest`). Bodies are JSON values or bytes.
    """
    seen = Seen()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(health or (200, {"rules_hash": "h"}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with seen.lock:
                seen.bodies.append(body)
                seen.times.append(time.monotonic())
                seen.now += 1
                seen.most = max(seen.most, seen.now)
                answer = script.pop(0) if len(script) > 1 else script[0]
            try:
                if answer in (half, drop, drip):
                    answer(self)
                else:
                    self.answer(answer(body) if callable(answer) else answer)
            finally:
                with seen.lock:
                    seen.now -= 1

        def answer(self, answer):
            status, body, headers = (*answer, {})[:3]
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            try:
                self.send_response(status)
                for name, value in {"content-length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # nobody waits for it any more
                self.close_connection = True

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    seen.url = f"http://127.0.0.1:{httpd.server_port}"
    try:
        yield seen
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
