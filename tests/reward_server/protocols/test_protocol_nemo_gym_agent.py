"""NeMo-Gym's own agent, client, schemas and metrics against our routes; needs nemo-gym 0.7.0 (Python 3.13)."""

import asyncio
import contextlib
import math
import socket
import threading

import pytest
import uvicorn
from fastapi import FastAPI
from protocol_helpers import boxed, post, serving_router
from test_protocol_nemo_gym import MATH, MCQ, replies, rollout

pytest.importorskip("nemo_gym", reason="nemo-gym is not installed")


@pytest.fixture(scope="module")
def server():
    with serving_router("nemo_gym") as url:
        yield url


@contextlib.contextmanager
def in_thread(app):
    """The port of an app that a thread serves."""
    listener = socket.create_server(("127.0.0.1", 0))
    runner = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=lambda: asyncio.run(runner.serve(sockets=[listener])))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        runner.should_exit = True
        thread.join(30)


def port_of(url):
    return int(url.rsplit(":", 1)[1])


def policy():
    """A model server that always answers alike."""
    app = FastAPI()

    @app.post("/v1/responses")
    async def responses(body: dict):
        return rollout(boxed("B" if "MCQ" in str(body["input"]) else "5"))["response"]

    return app


def test_its_schemas_take_our_replies(server):
    from resources_servers.math_with_judge.app import LibraryJudgeMathVerifyRequest, LibraryJudgeMathVerifyResponse
    from resources_servers.mcqa.app import MCQAVerifyRequest, MCQAVerifyResponse

    for request, response, row, answer in (
        (MCQAVerifyRequest, MCQAVerifyResponse, MCQ, "B"),
        (LibraryJudgeMathVerifyRequest, LibraryJudgeMathVerifyResponse, MATH, "5"),
    ):
        sent = request.model_validate(rollout(boxed(answer), **row)).model_dump(mode="json", exclude_unset=True)
        reply = response.model_validate(post(server, "/verify", sent).json())
        assert reply.reward == 1.0 and reply.extracted_answer == answer


def test_its_agent(server, monkeypatch):
    monkeypatch.setenv("NEMO_GYM_CONFIG_DICT", "{}")  # else it parses the command line, which is pytest's
    from nemo_gym.config_types import BaseServerConfig
    from nemo_gym.server_utils import ServerClient
    from omegaconf import OmegaConf
    from responses_api_agents.simple_agent.app import SimpleAgent, SimpleAgentConfig

    def reference(kind, name):
        return {"type": kind, "name": name}

    config = SimpleAgentConfig.model_validate(
        {
            "name": "agent",
            "host": "127.0.0.1",
            "port": 1,
            "entrypoint": "app.py",
            "resources_server": reference("resources_servers", "crossthink"),
            "model_server": reference("responses_api_models", "policy"),
        }
    )
    known = OmegaConf.create({})
    client = ServerClient(head_server_config=BaseServerConfig(host="127.0.0.1", port=1), global_config_dict=known)
    agent = SimpleAgent(config=config, server_client=client)
    with in_thread(policy()) as policy_port, in_thread(agent.setup_webserver()) as agent_port:

        def at(kind, port):
            return {kind: {"x": {"host": "127.0.0.1", "port": port}}}

        known.update(
            {
                "crossthink": at("resources_servers", port_of(server)),
                "policy": at("responses_api_models", policy_port),
                "agent": at("responses_api_agents", agent_port),
            }
        )
        for name, row, right in (("MCQ", MCQ, 1.0), ("MATH", MATH, 1.0), ("MATH", {**MATH, "expected_answer": "6"}, 0)):
            task = {"responses_create_params": {"input": [{"role": "user", "content": name}]}, **row}
            reply = post(f"http://127.0.0.1:{agent_port}", "/run", task)
            assert reply.status_code == 200, reply.text
            assert reply.json()["reward"] == right and reply.json()["reward_components"]["format"] == 1.0
        bad = {"responses_create_params": {"input": "MATH"}, "kind": "math", "ground_truth": ""}
        assert post(f"http://127.0.0.1:{agent_port}", "/run", bad).status_code == 500  # never a zero
        metrics = post(f"http://127.0.0.1:{agent_port}", "/aggregate_metrics", {"verify_responses": replies()})
        assert metrics.json()["key_metrics"]["mean/reward"] == 0.5


@pytest.mark.filterwarnings("ignore")
def test_its_numbers(server):
    from nemo_gym.reward_profile import compute_aggregate_metrics

    theirs = compute_aggregate_metrics(replies()).model_dump()
    ours = post(server, "/aggregate_metrics", {"verify_responses": replies()}).json()
    for name, value in ours["agent_metrics"].items():
        assert math.isclose(theirs["agent_metrics"][name], value), name
    assert theirs["key_metrics"] == pytest.approx(ours["key_metrics"])
    for one, other in zip(ours["group_level_metrics"], theirs["group_level_metrics"], strict=True):
        assert {name: other[name] for name in one} == pytest.approx(one)
