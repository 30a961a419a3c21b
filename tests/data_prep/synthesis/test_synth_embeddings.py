"""Pages routed by an embedding model behind a real HTTP endpoint: asked once, tried again, named when it fails."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("datatrove")
pytest.importorskip("openai")
from datatrove.data import Document
from synth_brain import BRAIN
from synth_endpoint import synth_endpoint
from synth_helpers import QA_FILE, pages_of, qa_words, rows_of
from synth_world import articles, warc
from train_helpers import succeed

from conf.synth import EmbeddingsConfig, SubjectsConfig, SynthConfig
from crossthink import endpoint as endpoint_module
from crossthink.errors import EXIT_FAILED, EXIT_RESUMABLE, UserError
from data_prep.synthesis.routing import EmbeddingRouter
from data_prep.synthesis.steps import Subject
from data_prep.synthesis.subjects import load_subjects

pytestmark = pytest.mark.timeout(300)

WIDTH = 1024
LEAST = 0.02


def vectors_of(texts: list[str]) -> np.ndarray:
    """A bag of words, each at a place of its own or nearly."""
    found = np.zeros((len(texts), WIDTH), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w{5,}", text.lower()):
            found[row, int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % WIDTH] += 1
    return found


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: VectorServer

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(200, {"object": "list", "data": [{"id": "vectors", "object": "model"}]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(asked["input"])
        status = self.server.fails.pop(0) if self.server.fails else 200
        if status != 200:
            return self.answer(status, {"error": {"message": "not now", "type": "x", "param": None, "code": None}})
        rows = vectors_of(asked["input"])[: self.server.most]
        data = [{"object": "embedding", "index": at, "embedding": row.tolist()} for at, row in enumerate(rows)]
        # The order of the answer is not said to be that of the question: the index is.
        self.answer(200, {"object": "list", "model": asked["model"], "data": data[::-1], "usage": {}})


class VectorServer(ThreadingHTTPServer):
    """`fails`: status codes of the next answers; `most`: vectors of one answer; `asked`: the texts of every request."""

    daemon_threads = True

    def __init__(self, fails: list[int], most: int | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fails, self.most, self.asked = fails, most, list[list[str]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextlib.contextmanager
def vector_server(fails: tuple[int, ...] = (), most: int | None = None) -> Iterator[VectorServer]:
    server = VectorServer([*fails], most)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "FIRST_WAIT_S", 0.01)


def config_for(url: str) -> SynthConfig:
    vectors = EmbeddingsConfig(endpoint=url, retries=2, max_characters=400)
    return replace(
        SynthConfig(out="x"), subjects=SubjectsConfig(router="embedding", least_score=LEAST), embeddings=vectors
    )


TEXTS = [
    "Momentum and energy are conserved in collisions of particles, said the professor of physics.",
    "The firm maximises its profit where marginal revenue equals marginal cost; economics of monopoly.",
    "zz zz",
    "The anatomy of the knee: ligaments, cartilage and muscles of the leg.",
]


def routed(url: str, answers: Path, texts: list[str] = TEXTS) -> list[dict[str, Any] | None]:
    """The routes that the step gives; None for a page that it drops."""
    step = Subject(config_for(url), answers)
    documents = [Document(text, str(at)) for at, text in enumerate(texts)]
    kept = {one.id for one in step.run(iter(documents), 3, 4)}
    return [one.metadata["route"] if one.id in kept else None for one in documents]


def test_routes_are_those_of_the_models_vectors(tmp_path: Path) -> None:
    subjects = load_subjects(None)
    wanted = [vars(one) for one in EmbeddingRouter(subjects, LEAST, vectors_of).route(TEXTS)]
    with vector_server() as server:
        assert routed(server.url, tmp_path) == [one if one["subject"] else None for one in wanted]
        assert wanted[2]["subject"] is None and len({one["subject"] for one in wanted}) == 4
        assert max(map(len, server.asked)) <= 64
        asked = len(server.asked)
        again = routed(server.url, tmp_path, [*TEXTS, "A text that is new, about chemistry."])
        assert again[:4] == routed(server.url, tmp_path) and server.asked[asked:] == [
            ["A text that is new, about chemistry."]
        ]


def test_a_page_is_cut_before_it_is_sent(tmp_path: Path) -> None:
    with vector_server() as server:
        routed(server.url, tmp_path, ["energy " * 400])
        assert max(len(text) for texts in server.asked for text in texts) == 400


def test_what_passes_is_tried_again(tmp_path: Path) -> None:
    with vector_server(fails=(429, 503)) as server:
        assert routed(server.url, tmp_path)[0] is not None


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ({"fails": (503,) * 9}, EXIT_RESUMABLE, r"embeddings.endpoint=http://\S+ did not answer in 3 tries.*not now"),
        ({"fails": (400,)}, EXIT_FAILED, r"embeddings.endpoint=http://\S+ refused \(400\): not now"),
        ({"most": 1}, EXIT_FAILED, r"embeddings.endpoint=http://\S+ gave 1 vectors for 64 texts"),
    ],
)
def test_an_endpoint_that_fails_is_named(script: dict[str, Any], code: int, said: str, tmp_path: Path) -> None:
    with vector_server(**script) as server, pytest.raises(UserError, match=said) as raised:
        routed(server.url, tmp_path)
    assert raised.value.exit_code == code


@pytest.mark.slow
def test_a_run_routes_its_pages_by_the_model(tmp_path: Path) -> None:
    (tmp_path / "crawl").mkdir()
    (tmp_path / "crawl" / "a.warc.gz").write_bytes(warc(articles(24)))
    with synth_endpoint(tmp_path, brain=BRAIN) as server, vector_server() as model:
        more = ["subjects.router=embedding", f"subjects.least_score={LEAST}", f"embeddings.endpoint={model.url}"]
        words = qa_words(tmp_path / "out", server.url, tmp_path / "crawl", *more)
        succeed(*words)
        asked = len(model.asked)
        succeed(*words, "resume=true")
        assert len(model.asked) == asked
    rows = rows_of(tmp_path / "out" / QA_FILE)
    pages = [page for _, page in pages_of(tmp_path / "out")]
    texts = [page["text"][: EmbeddingsConfig.max_characters] for page in pages]
    routes = EmbeddingRouter(load_subjects(None), LEAST, vectors_of).route(texts)
    wanted = {page["metadata"]["url"]: route.subject for page, route in zip(pages, routes, strict=True)}
    assert len(rows) >= 20
    assert all(row["meta_data"]["subject"] == wanted[row["meta_data"]["url"]] for row in rows)
