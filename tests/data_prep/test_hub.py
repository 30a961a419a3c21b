"""`data_prep.hub` through the real hub client, talking to a small fake hub on 127.0.0.1.

The client reads its environment at import, so every setting of it runs in a process of its own.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from data_prep.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "1" * 40, "2" * 40
ROW = b'{"question": "Q", "reference_answer": "A"}\n'
# Of every repository: each commit's files, the oldest first. The newest is main.
REPOSITORIES = {
    "some/plain": {FIRST: {"full.jsonl": ROW, "other.jsonl": b""}, SECOND: {"full.jsonl": ROW * 2, "README.md": b"#"}},
    "some/older": {FIRST: {"data/train.jsonl": ROW}},
    "some/parts": {FIRST: {f"{topic}/train-0000{i}-of-00002.parquet": b"x" for topic in "ab" for i in (0, 1)}},
    "some/short": {FIRST: {"a/train-00000-of-00002.parquet": b"x", "b/train-00000-of-00001.parquet": b"x"}},
}
MATH_500, GPQA = BENCHMARKS["math500"], BENCHMARKS["gpqa_diamond"]
REPOSITORIES[MATH_500.hf_id] = {
    MATH_500.revision: {"test.jsonl": b'{"problem": "2+3?", "answer": "5"}\n', "README.md": b""},
    SECOND: {"test.jsonl": b'{"problem": "Newer?", "answer": "5"}\n'},
}
REPOSITORIES[GPQA.hf_id] = {
    GPQA.revision: {"gpqa_diamond.csv": (",".join(GPQA.schema) + '\n"What, now?",a,b,c,d\n').encode()}
}
GATED = "some/gated"
TOKEN = "hf_right"

CLIENT = """
import json, sys
from crossthink.errors import UserError
from data_prep.hub import fetch
from data_prep.sources.base import Source

for hf_id, pinned, files, revision in json.loads(sys.stdin.read()):
    source = Source("mine", hf_id, "train", pinned, "MIT", "gpr", (), None, 0, files=tuple(files))
    try:
        fetched = fetch(source, revision)
        found = [[file.name, file.read_bytes().decode()] for file in fetched.files]
        print(json.dumps({"revision": fetched.revision, "files": found}))
    except UserError as error:
        print(json.dumps({"error": str(error)}))
"""

# Opens benchmarks as an evaluation does, those of the names on standard input.
BENCHMARK_CLIENT = """
import json, sys
from data_prep.benchmarks.access import Copy, open_copies

for copy in open_copies(json.loads(sys.stdin.read()), None, []):
    if isinstance(copy, Copy):
        questions = [question.question for question in copy.questions()]
        print(json.dumps({"name": copy.name, "revision": copy.revision, "questions": questions}))
    else:
        print(json.dumps({"name": copy[0], "absent": str(copy[1])}))
"""


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as a download asks for: repository info, file tree, files."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append(self.path)
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        api = parts[0] == "api"
        hf_id = "/".join(parts[2:4] if api else parts[1:3])
        if hf_id in (GATED, GPQA.hf_id) and self.headers.get("authorization") != f"Bearer {TOKEN}":
            known = "authorization" in self.headers
            return self.answer(403 if known else 401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        if hf_id.startswith("status/"):
            return self.answer(int(hf_id.removeprefix("status/")), b"")
        commits = {**REPOSITORIES, GATED: {FIRST: {"full.jsonl": ROW}}}.get(hf_id)
        if commits is None:
            return self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        rest = parts[4:] if api else parts[3:]
        asked = rest[1] if len(rest) > 1 else "main"
        commit = list(commits)[-1] if asked == "main" else asked
        if commit not in commits:
            return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if not api:
            content = commits[commit]["/".join(rest[2:])]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, {"X-Repo-Commit": commit, "ETag": etag})
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in commits[commit].items()
            ]
            return self.answer(200, json.dumps(tree).encode())
        siblings = [{"rfilename": name} for name in commits[commit]]
        return self.answer(200, json.dumps({"id": hf_id, "sha": commit, "siblings": siblings}).encode())

    do_HEAD = do_GET

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    """A running fake hub; `asked` are the paths of its requests so far."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def ask(tmp_path, hub):
    """A function: fetch several things in one client process with a cache of the test's own, and return the replies."""

    def ask(*wanted, client=CLIENT, **env):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", client],
            input=json.dumps(wanted),
            env=environment | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def closed_port():
    """A port of this machine on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


TWO, ONE = [["full.jsonl", ROW.decode() * 2]], [["full.jsonl", ROW.decode()]]


def test_downloads_and_later_reads_the_cache_offline(ask, hub, tmp_path):
    plain = ("some/plain", None, ["full.jsonl|train.jsonl"], None)
    parts = ("some/parts", None, ["a/train-*.parquet", "b/train-*.parquet"], None)
    older = ("some/older", None, ["full.jsonl|*train.jsonl"], None)
    pinned = ("some/plain", FIRST, ["full.jsonl"], None)
    over = ("some/plain", FIRST, ["full.jsonl"], SECOND)
    online = ask(plain, older, parts, pinned, over)
    assert online[0] == {"revision": SECOND, "files": TWO}
    assert online[1] == {"revision": FIRST, "files": [["train.jsonl", ROW.decode()]]}
    assert online[2]["files"] == [[f"train-0000{i}-of-00002.parquet", "x"] for _ in "ab" for i in (0, 1)]
    assert online[3] == {"revision": FIRST, "files": ONE}
    assert online[4] == {"revision": SECOND, "files": TWO}
    assert not any("other.jsonl" in path or "README" in path for path in hub.asked)

    hub.asked.clear()
    assert ask(plain, older, parts, pinned, over, HF_HUB_OFFLINE="1") == online
    assert hub.asked == []

    # Without a connection the cache serves, too, and what it lacks is said to be out of reach.
    unknown = ("some/unknown", None, ["*.jsonl"], None)
    nobody = f"http://127.0.0.1:{closed_port()}"
    *cached, lost = ask(plain, unknown, HF_ENDPOINT=nobody)
    assert cached == online[:1]
    assert lost["error"].startswith(f"Source mine: dataset some/unknown on {nobody} is not whole in the cache")
    assert "the hub is out of reach (Connect" in lost["error"]
    assert lost["error"].endswith("sources.mine.path=FILE.")

    # A file that the download did not get to is noticed offline: by the client, or where that is an old one by us.
    removed = next((tmp_path / "home").rglob("snapshots/*/b/train-00001-of-00002.parquet"))
    removed.unlink()
    (broken,) = ask(parts, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in broken["error"] or "no file b/train-00001-of-00002.parquet" in broken["error"]
    assert broken["error"].endswith("sources.mine.path=FILE.")


def test_what_the_hub_refuses_is_named(ask):
    files = ["full.jsonl"]
    gated, closed, broken, missing, revision, nothing, lacking = replies = ask(
        (GATED, None, files, None),
        ("status/403", None, files, None),
        ("status/500", None, files, None),
        ("some/missing", None, files, None),
        ("some/plain", None, files, "v9"),
        ("some/plain", None, ["Data/*.parquet|*.csv"], None),
        ("some/short", None, ["a/train-*.parquet", "b/train-*.parquet"], None),
    )
    for reply in replies:
        assert reply["error"].startswith("Source mine: ")
        assert reply["error"].endswith("Or give a copy of your own: sources.mine.path=FILE.")
        assert "\n" not in reply["error"]
    assert "some/gated" in gated["error"] and "is gated. Accept its licence at http://127.0.0.1" in gated["error"]
    assert "/datasets/some/gated and set HF_TOKEN" in gated["error"]
    assert "refused (HfHubHTTPError: " in closed["error"] and "Check HF_TOKEN." in closed["error"]
    assert "the hub is out of reach (HfHubHTTPError: " in broken["error"] and "500" in broken["error"]
    assert "there is no dataset some/missing" in missing["error"] and "private" in missing["error"]
    assert "dataset some/plain" in revision["error"] and "has no revision v9." in revision["error"]
    assert f"revision {SECOND} of some/plain has no file Data/*.parquet or *.csv" in nothing["error"]
    assert "has no file a/train-00001-of-00002.parquet" in lacking["error"]


def test_a_token_opens_a_gated_repository(ask, tmp_path):
    gated = (GATED, None, ["full.jsonl"], None)
    assert ask(gated, HF_TOKEN=TOKEN) == [{"revision": FIRST, "files": ONE}]
    (wrong,) = ask((GATED, FIRST, ["full.jsonl"], None), HF_TOKEN="hf_wrong", HF_HOME=str(tmp_path / "other"))
    assert "is gated" in wrong["error"]


def test_benchmarks_are_downloaded_at_their_pinned_revision(ask):
    math = {"name": "math500", "revision": MATH_500.revision, "questions": ["2+3?"]}
    here, gated, elsewhere = ask("math500", "gpqa_diamond", "agieval", client=BENCHMARK_CLIENT)
    assert here == math
    assert gated["absent"].startswith("Benchmark gpqa_diamond: dataset Idavidrein/gpqa on http://127.0.0.1")
    assert "is gated. Accept its licence at http" in gated["absent"] and "set HF_TOKEN" in gated["absent"]
    assert gated["absent"].endswith("Or give a copy of your own: benchmarks_path=FOLDER.")
    assert elsewhere["absent"].startswith("Benchmark agieval cannot be downloaded")
    assert "ruixiangcui/AGIEval" in elsewhere["absent"] and "benchmarks_path=FOLDER" in elsewhere["absent"]
    opened = ask("math500", "gpqa_diamond", client=BENCHMARK_CLIENT, HF_TOKEN=TOKEN)
    assert opened == [math, {"name": "gpqa_diamond", "revision": GPQA.revision, "questions": ["What, now?"]}]


def test_a_cache_that_cannot_be_written_is_named(ask, tmp_path):
    (tmp_path / "file").write_text("")
    (reply,) = ask(("some/plain", None, ["full.jsonl"], None), HF_HOME=str(tmp_path / "file"))
    assert f"cannot be written to {tmp_path / 'file' / 'hub'} (Not a directory)" in reply["error"]
    assert "HF_HOME" in reply["error"]
