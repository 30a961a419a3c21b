"""`crossthink serve-rollout` as a process, on a small model; and everything it refuses before it starts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_helpers import body, group, in_background, offer, sampling, wait_until
from tiny_helpers import small_model, small_tokenizer, write_small_model

from conf.rollout import ServeRolloutConfig
from crossthink.errors import ConfigError, UserError
from crossthink.procs import stop
from recipes import serve_rollout

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's folder."""
    path = tmp_path_factory.mktemp("model") / "small-one"
    write_small_model(path, max_position_embeddings=512)
    return path


@contextlib.contextmanager
def started(folder: Path, env: dict[str, str] | None = None, **fields: object) -> Iterator[tuple]:
    """(process, URL, first line) of a server on a model folder."""
    config = {"model": str(folder), "port": 0, "threads": 1, "max_prompt_tokens": 64, "max_total_tokens": 400, **fields}
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes.cli", "serve-rollout", *(f"{key}={value}" for key, value in config.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CROSSTHINK_PARENT": str(os.getpid()), **(env or {})},
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)  # a full pipe would stop it
    reader.start()
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline()
        assert line.startswith("rollout server on http://"), line + "".join(said)
        yield process, line.split()[3], line
    finally:
        watchdog.cancel()
        stop(process)
        reader.join(10)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """(URL, first line, port file) of a server that the tests do no harm."""
    port_file = tmp_path_factory.mktemp("port") / "port"
    with started(folder, {"CROSSTHINK_PORT_FILE": str(port_file)}, served_name="mine") as (_, url, line):
        yield url, line, port_file


def wanted(**changes: object) -> dict:
    """A generate body for the small model."""
    tokenizer = small_tokenizer()
    fields = {"stop_ids": [tokenizer.eos_token_id], "vocabulary": len(tokenizer), "max_tokens": 24, **changes}
    return body(group(0, range(4), prompt_ids=[5, 6, 7]), group(1, (3,), prompt_ids=[8]), sampling=sampling(**fields))


def samples(url: str, **changes: object) -> dict[tuple[int, int], dict]:
    """The samples of a reply by prompt and sample."""
    reply = httpx.post(url + "/v1/generate", json=wanted(**changes), timeout=LIMIT_S)
    *lines, last = [json.loads(line) for line in reply.text.splitlines()]
    assert last == {"done": 5}, reply.text
    return {(one["prompt"], one["sample"]): one for one in lines if "sample" in one}


def test_it_says_where_it_is_and_generates(server: tuple[str, str, Path]) -> None:
    url, line, port_file = server
    assert line == f"rollout server on {url} (engine local, model mine, version 0)\n"
    assert url.endswith(":" + port_file.read_text().strip())
    found = samples(url)
    assert sorted(found) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 3)]
    assert found == samples(url), "same seed, same tokens"
    assert found != samples(url, seed=4)
    for one in found.values():
        assert len(one["token_ids"]) == len(one["log_probs"]) <= 24 and one["weight_version"] == 0
        assert all(value <= 0 for value in one["log_probs"])
    greedy = samples(url, temperature=0)
    assert len({str(greedy[0, sample]["token_ids"]) for sample in range(4)}) == 1


def test_openais_client_gets_text_from_it(server: tuple[str, str, Path]) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=server[0] + "/v1", api_key="any", max_retries=0, timeout=LIMIT_S) as client:
        assert [one.id for one in client.models.list()] == ["mine"]
        question = [{"role": "user", "content": "What is 12 + 30?"}]
        ask = {"model": "mine", "messages": question, "n": 3, "max_tokens": 12, "logprobs": True}
        one, other = (client.chat.completions.create(**ask, seed=5) for _ in range(2))
        assert [c.message.content for c in one.choices] == [c.message.content for c in other.choices]
        assert one.choices[0].logprobs == other.choices[0].logprobs
        assert len({c.message.content for c in client.chat.completions.create(**ask).choices}) > 1


def test_a_trainer_learns_what_it_has_to_know(server: tuple[str, str, Path]) -> None:
    facts = httpx.get(server[0] + "/v1/refit").json()
    assert facts["tensors"]["model.embed_tokens.weight"][0] == "float32" and facts["version"] == 0
    assert facts["limits"]["max_total_tokens"] == 400 and facts["engine"] == "local"


def test_sigterm_lets_what_is_under_way_end(folder: Path) -> None:
    with started(folder, token_delay_s=0.01) as (process, url, _):
        finishing = in_background(lambda: samples(url, max_tokens=150, stop_ids=[]))
        wait_until(lambda: httpx.get(url + "/healthz").json()["running"] == 5)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(url + "/readyz").status_code == 503)
        late = httpx.post(url + "/v1/generate", json=wanted())
        assert late.status_code == 503 and late.headers["retry-after"]
        assert {len(one["token_ids"]) for one in finishing().values()} == {150}
        assert process.wait(LIMIT_S) == 0


def test_weights_come_by_refit_and_what_takes_too_long_after_sigterm_is_told_so(folder: Path, tmp_path: Path) -> None:
    from recipes.rollout.refit.checksums import checksum
    from recipes.rollout.refit.files import FilesWriter

    with started(folder, token_delay_s=0.05, drain_s=0.1, weights="refit", weights_dir=str(tmp_path)) as (
        process, url, line,
    ):  # fmt: skip
        assert "version none yet" in line
        assert httpx.get(url + "/readyz").status_code == 503
        assert httpx.post(url + "/v1/generate", json=wanted()).status_code == 503
        writer = FilesWriter(tmp_path, 1 << 20, "xxh3")
        tensors = dict(small_model(seed=1).named_parameters())
        for name, tensor in tensors.items():
            writer.send(name, tensor)
        writer.finish({name: checksum(tensor, "xxh3") for name, tensor in tensors.items()})
        reply = httpx.post(url + "/v1/refit", json=offer(7, folder=str(writer.folder)), timeout=LIMIT_S)
        assert reply.status_code == 200, reply.text
        assert set(reply.json()) == {"version", "tensors", "bytes", "checksum", "seconds"}
        assert reply.json()["tensors"] == len(tensors) and reply.json()["version"] == 7
        writer.remove()
        again = httpx.post(url + "/v1/refit", json=offer(8, folder=str(writer.folder)), timeout=LIMIT_S)
        assert again.status_code == 409 and again.json()["version"] == 7, "nothing was touched"
        long = wanted(stop_ids=[], max_tokens=300)
        with httpx.stream("POST", url + "/v1/generate", json=long, timeout=LIMIT_S) as reply:
            assert reply.status_code == 200
            process.send_signal(signal.SIGTERM)
            *_, last = reply.iter_lines()
        assert "told to end" in json.loads(last)["error"]
        assert process.wait(LIMIT_S) == 0


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"engine": "vllm"}, ["engine=vllm", "local, trtllm"]),
        ({"weights": "none"}, ["weights=none", "folder, refit"]),
        ({"device": "tpu"}, ["device=tpu", "auto, cpu, cuda"]),
        ({"port": 70_000}, ["port=70000", "65535"]),
        ({"port": -1}, ["port=-1"]),
        ({"host": "0.0.0.0"}, ["host=0.0.0.0", "token="]),
        ({"token": " "}, ["token="]),
        ({"model": "/nowhere/at/all"}, ["model=/nowhere/at/all"]),
        ({"max_prompt_tokens": 401}, ["max_prompt_tokens=401", "max_total_tokens=400"]),
        ({"max_total_tokens": 513}, ["max_total_tokens=513", "512"]),
        ({"max_queue": 0}, ["max_queue=0"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"threads": 0}, ["threads=0"]),
        ({"drain_s": float("nan")}, ["drain_s=nan"]),
        ({"refit_deadline_s": 0}, ["refit_deadline_s=0"]),
        ({"weights_dir": "/nowhere/at/all"}, ["weights_dir=/nowhere/at/all"]),
    ],
)
def test_what_is_refused_before_it_starts(folder: Path, changes: dict, parts: list[str]) -> None:
    fields = {"model": str(folder), "max_prompt_tokens": 64, "max_total_tokens": 400, **changes}
    with pytest.raises(ConfigError) as caught:
        serve_rollout.run(ServeRolloutConfig(**fields))
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_folder_without_tokenizer_or_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    config = ServeRolloutConfig(model=str(tmp_path), max_prompt_tokens=64, max_total_tokens=400)
    with pytest.raises(UserError, match="tokenizer"):
        serve_rollout.check(config)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    with pytest.raises(UserError, match="model.safetensors"):
        serve_rollout.check(config)
    config.weights = "refit"
    serve_rollout.check(config)
