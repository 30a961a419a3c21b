"""The critic's client against servers that are gone, silent, or fail."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pytriton.client.exceptions import PyTritonClientInferenceServerError

from crossthink.errors import UserError
from crossthink.procs import free_port
from recipes.actors.aligner import critic
from recipes.actors.interface import TokenizedSample

SAMPLES = [
    TokenizedSample([5, 6, 7, 8], 2, {"weights": torch.tensor([0.5, 0.0]), "values": torch.tensor([1.0, 2.0]),
                                      "returns": torch.tensor([3.0, 4.0]), "advantages": torch.zeros(2)}),
    TokenizedSample([9, 1], 1, {"weights": torch.tensor([0.25]), "values": torch.tensor([-1.0]),
                                "returns": torch.tensor([-3.0]), "advantages": torch.zeros(1)}),
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(critic, "READY_S", 1.0)
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def client(url: str, answer: object = None) -> critic.AlignerCritic:
    """A client; with `answer` it gives or raises that in place of a request, and keeps what it would have sent."""
    made = critic.AlignerCritic(url, 1.0, lambda: "The end of its log:\nlast words")
    if answer is not None:

        def request(model: str, inputs: critic.Arrays) -> critic.Arrays:
            made.sent = model, inputs
            if isinstance(answer, Exception):
                raise answer
            return answer

        made._request = request
    return made


@pytest.mark.parametrize("listens", [False, True])
def test_a_server_that_is_gone_or_silent_is_named_in_time(listens: bool) -> None:
    with socket.socket() as server:
        port = free_port()
        server.bind(("127.0.0.1", port))
        if listens:
            server.listen()
        began = time.monotonic()
        with pytest.raises(UserError, match=rf"(?s)http://127.0.0.1:{port} failed in critic_infer: .*last words$"):
            client(f"http://127.0.0.1:{port}").values(SAMPLES)
        assert time.monotonic() - began < 30.0


def test_a_server_that_ends_while_it_is_asked_is_named() -> None:
    """It takes the request and closes the connection, which the HTTP client has an error of its own for."""

    def hang_up() -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"http://127.0.0.1:{port} failed in critic_infer: .*connection closed"):
            client(f"http://127.0.0.1:{port}").values(SAMPLES)
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10.0)


def test_a_failure_of_the_server_is_told_in_one_line() -> None:
    error = PyTritonClientInferenceServerError(
        "Error occurred during inference request. Message: Traceback (most recent call last):\n  File x, line 1\n"
        "RuntimeError: out of luck.\n\n\nAt:\n  /tmp/model.py(501): execute\n"
    )
    with pytest.raises(UserError, match=re.escape("critic_infer: RuntimeError: out of luck. The end of its log:")):
        client("http://here", error).values(SAMPLES)


def test_values_are_cut_out_where_the_responses_are_predicted() -> None:
    values_bt = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = client("http://here", {"values": values_bt}).values(SAMPLES)
    assert [one.tolist() for one in found] == [[1.0, 2.0], [4.0]]


def test_a_step_sends_weights_values_and_returns_where_they_belong() -> None:
    sums = {"loss": 0.1, "tokens": 3.0, "value_clipped": float("nan")}
    answer = {"grad_norm": np.array([2.5]), "sums": np.array([json.dumps(sums).encode()], dtype=object)}
    asked = client("http://here", answer)
    result = asked.train_step(SAMPLES, None, 1e-3)
    assert result.grad_norm == 2.5 and result.sums["loss"] == 0.1 and np.isnan(result.sums["value_clipped"])
    model, sent = asked.sent
    assert model == "critic_train" and sent["lr"].tolist() == [1e-3]
    assert sent["tokens"].tolist() == [[5, 6, 7, 8], [9, 1, 0, 0]] and sent["sequence_lengths"].tolist() == [[4], [2]]
    assert sent["mask"].tolist() == [[0.0, 0.5, 0.0], [0.25, 0.0, 0.0]]
    assert sent["prev_values"].tolist() == [[0.0, 1.0, 2.0], [-1.0, 0.0, 0.0]]
    assert sent["returns"].tolist() == [[0.0, 3.0, 4.0], [-3.0, 0.0, 0.0]]


def test_a_full_disk_is_an_os_error(tmp_path) -> None:
    with pytest.raises(OSError, match="No space left on device") as caught:
        client("http://here", {"status": np.array([28])}).stage(tmp_path)
    assert caught.value.errno == 28
