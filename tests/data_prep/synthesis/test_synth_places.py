"""A crawl that lies elsewhere: on an HTTP server that is busy at times and breaks connections, and on S3."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("datatrove")
pytest.importorskip("trafilatura")
from synth_helpers import pages_of, qa_words, yields_of
from synth_world import MAX_BYTES, World, crawl
from train_helpers import crossthink

from crossthink.errors import EXIT_RESUMABLE, UserError
from data_prep.synthesis import pages
from data_prep.synthesis.pages import PageReader

pytestmark = pytest.mark.timeout(300)


class Handler(SimpleHTTPRequestHandler):
    """Files with ranges, as Common Crawl's server has them."""

    server: FileServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            return self.send_error(404)
        at = self.server.count()
        if at in self.server.busy:
            return self.send_error(503, "Slow Down")
        data = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"] or "")
        first, last = (int(asked[1]), min(int(asked[2]), len(data) - 1)) if asked else (0, len(data) - 1)
        self.send_response(206 if asked else 200)
        self.send_header("content-length", str(last + 1 - first))
        self.send_header("content-range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("accept-ranges", "bytes")
        self.end_headers()
        if self.command == "HEAD":
            return
        part = data[first : last + 1]
        self.wfile.write(part[: len(part) // 2] if at in self.server.breaks else part)
        self.close_connection = at in self.server.breaks

    do_HEAD = do_GET


class FileServer(ThreadingHTTPServer):
    """`busy` and `breaks`: which requests are refused, and whose answer is cut off."""

    daemon_threads = True

    def __init__(self, folder: Path, busy: set[int], breaks: set[int]) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.busy, self.breaks, self.requests, self.lock = busy, breaks, 0, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def count(self) -> int:
        with self.lock:
            self.requests += 1
            return self.requests


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return crawl(tmp_path_factory.mktemp("crawl") / "files")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PAUSES_S", (0.01, 0.01, 0.01))


@pytest.fixture
def paths_file(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "warc.paths.gz"
    path.write_bytes(gzip.compress("".join(f"{name}\n" for name in sorted(world.files)).encode()))
    return path


def read(folder: str, paths_file: Path | None) -> tuple[list[str], dict[str, int]]:
    """The pages of all files, and what was dropped."""
    reader = PageReader(folder, str(paths_file) if paths_file else None, MAX_BYTES, -1)
    texts = [f"{one.id} {one.text}" for one in reader.run(None, 0, 1)]
    return texts, {label: one.total for label, one in reader.stats.stats.items() if label.startswith("dropped_")}


def test_paths_on_an_http_server_that_is_busy_and_breaks_off(world: World, paths_file: Path) -> None:
    wanted = read(str(world.folder), None)
    with FileServer(world.folder, busy={1, 5, 6}, breaks={4, 9}) as server:
        assert read(server.url, paths_file) == wanted
        assert server.requests > 9


def test_a_server_that_stays_busy_is_named(world: World, paths_file: Path) -> None:
    with (
        FileServer(world.folder, busy=set(range(2, 99)), breaks=set()) as server,
        pytest.raises(UserError, match=rf"{server.url}/crawl-00000.warc.gz cannot be read .*503.*however often"),
    ):
        read(server.url, paths_file)


def test_a_path_that_is_not_there_is_named(world: World, paths_file: Path) -> None:
    paths_file.write_bytes(gzip.compress(b"segments/none.warc.gz\n"))
    with (
        FileServer(world.folder, busy=set(), breaks=set()) as server,
        pytest.raises(UserError, match=rf"{server.url}/segments/none.warc.gz is not there"),
    ):
        read(server.url, paths_file)


@pytest.fixture
def bucket(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The crawl in a bucket of a real S3 server on this machine."""
    pytest.importorskip("moto")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    store = boto3.client("s3", region_name="us-east-1")
    store.create_bucket(Bucket="crawl")
    for name in world.files:
        store.upload_file(str(world.folder / name), "crawl", f"data/{name}")
    yield "s3://crawl/data"
    server.stop()


def test_a_folder_and_paths_on_s3(world: World, bucket: str, paths_file: Path) -> None:
    wanted = read(str(world.folder), None)
    assert read(bucket, None) == wanted
    assert read(bucket, paths_file) == wanted


def test_the_command_reads_a_crawl_over_http(world: World, paths_file: Path, tmp_path: Path) -> None:
    """In tasks, which are forked: a connection of their parent's would be of no use to them."""
    nowhere = "http://127.0.0.1:9/v1"
    with FileServer(world.folder, busy=set(), breaks=set()) as server:
        words = qa_words(tmp_path / "out", nowhere, Path("x"), f"crawl.paths_file={paths_file}")
        words = [f"crawl.path={server.url}" if word == "crawl.path=x" else word for word in words]
        done = crossthink(*words, "writer.model=m", "solver.model=m", "writer.retries=0")
    assert done.returncode == EXIT_RESUMABLE, done.stderr  # nobody is there to write questions
    by_url = world.by_url()
    assert {by_url[page["metadata"]["url"]].fate for _, page in pages_of(tmp_path / "out")} == {
        "kept", "duplicate", "no_subject",
    }  # fmt: skip
    assert yields_of(tmp_path / "out", "pages")["WARC and WET"].dropped["too_large"] == 1
