"""An OpenAI-compatible endpoint that says what a script tells it to: `python scripted_endpoint.py SCRIPT PORT_FILE`.

The script is a JSON object:
    replies: the last message's content → what is answered.
    default: what is answered to all else.
    say: more fields of the message, such as reasoning_content.
    finish_reason, usage: of every reply; usage false leaves it out.
    refusals: [status, retry-after or null] of the first requests, one each.
    dies_after: answers after which the process ends.
    delay_s: of every answer.
    models: listed names; null: there is no list.
    key: what it wants as a bearer token.
`GET /counts` tells requests, and the most that were under way at a time.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SCRIPT = json.loads(Path(sys.argv[1]).read_text("utf-8"))
LOCK = threading.Lock()
COUNTS = {"requests": 0, "answered": 0, "under_way": 0, "most": 0}
ASKED: list[dict] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send(self, status, value, headers=None):
        body = json.dumps(value).encode("ascii")
        self.send_response(status)
        for name, text in {**(headers or {}), "content-type": "application/json"}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, message, headers=None):
        self.send(status, {"error": {"message": message, "type": "x", "param": None, "code": None}}, headers)

    def do_GET(self):
        if self.path == "/counts":
            return self.send(200, {**COUNTS, "asked": ASKED})
        if SCRIPT.get("key") and self.headers["authorization"] != f"Bearer {SCRIPT['key']}":
            return self.refuse(401, "Incorrect API key provided")
        if SCRIPT["models"] is None:
            return self.refuse(404, "no such page")
        self.send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in SCRIPT["models"]]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with LOCK:
            number = COUNTS["requests"]
            COUNTS["requests"] += 1
            COUNTS["under_way"] += 1
            COUNTS["most"] = max(COUNTS["most"], COUNTS["under_way"])
            ASKED.append(body)
        try:
            time.sleep(SCRIPT.get("delay_s", 0))
            refusals = SCRIPT.get("refusals", [])
            if number < len(refusals):
                status, wait = refusals[number]
                return self.refuse(status, f"refused with {status}", {"retry-after": str(wait)} if wait else {})
            with LOCK:
                COUNTS["answered"] += 1
                if COUNTS["answered"] > SCRIPT.get("dies_after", sys.maxsize):
                    os._exit(1)
            self.send(200, self.reply(body))
        finally:
            with LOCK:
                COUNTS["under_way"] -= 1

    def reply(self, body):
        text = SCRIPT.get("replies", {}).get(body["messages"][-1]["content"], SCRIPT.get("default"))
        message = {"role": "assistant", "content": text, **SCRIPT.get("say", {})}
        choice = {"index": 0, "message": message, "finish_reason": SCRIPT.get("finish_reason", "stop")}
        found = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        if SCRIPT.get("usage", True):
            found["usage"] = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}
        return found


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    aside = Path(sys.argv[2] + ".tmp")
    aside.write_text(str(server.server_port))
    aside.rename(sys.argv[2])
    server.serve_forever()
