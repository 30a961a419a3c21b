"""The scripts that run inside images: requirements, pins and the health check."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator

import healthcheck
import image_pins
import pytest
from docker_helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from project_requirements import canonical, read_project, requirements

from conf.reward import ServeRewardConfig
from conf.rollout import ServeRolloutConfig

PROJECT = read_project(ROOT / "pyproject.toml")
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,8}[a-z0-9])?", fullmatch=True)
PINS = st.dictionaries(
    NAMES.map(canonicalize_name), st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True), max_size=8
)


def test_requirements_of_the_project() -> None:
    bare = requirements(PROJECT, (), ())
    assert bare == PROJECT["dependencies"]
    everything = requirements(PROJECT, ["train"], ())
    without = requirements(PROJECT, ["train"], ["torch", "Megatron_Core"])
    assert {canonical(line) for line in everything} - {canonical(line) for line in without} == {
        "torch",
        "megatron-core",
    }


@pytest.mark.parametrize(("extras", "without", "says"), [(["trian"], [], "--extra trian"), ([], ["torch"], "torch")])
def test_requirements_refuse_what_is_not_there(extras: list[str], without: list[str], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        requirements(PROJECT, extras, without)


@given(NAMES, st.sampled_from(["", "==1.0", ">=2,<3", "[extra]>=1", " ; python_version > '3'"]))
def test_canonical_is_packagings(name: str, rest: str) -> None:
    assert canonical(name + rest) == canonicalize_name(Requirement(name + rest).name)


@pytest.mark.parametrize("line", ["", "  ", "# torch==1", "--index-url x"])
def test_lines_without_a_name(line: str) -> None:
    assert canonical(line) == ""


@given(PINS, PINS, st.sets(NAMES.map(canonicalize_name), max_size=4))
def test_pins_keep_the_image_and_lose_nothing(ours: dict[str, str], image: dict[str, str], more: set[str]) -> None:
    keep = more | set(list(image)[:2])
    lines = image_pins.pins(["# a comment", "", *(f"{name}=={version}" for name, version in ours.items())], image, keep)
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines), "a package is pinned twice"
    kept = keep & image.keys()
    assert found == {**ours, **{name: image[name] for name in kept}}


def test_pins_of_this_environment() -> None:
    """As the Dockerfile calls it: what is here stands in for an image."""

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "docker/image_pins.py", "constraints.txt", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    lines = call("--need", "torch").stdout.splitlines()
    assert f"torch=={image_pins.installed()['torch']}" in lines
    assert len([line for line in lines if canonical(line) == "torch"]) == 1
    assert "hydra-core==1.3.8" in lines
    missing = call("--need", "no-such-engine")
    assert missing.returncode == 1 and "no no-such-engine" in missing.stderr


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("serve-reward", "http://127.0.0.1:8900/healthz"),
        ("serve-rollout model=x port=9 host=0.0.0.0", "http://127.0.0.1:9/healthz"),
        ("python3 /opt/crossthink/bin/crossthink serve-reward host=:: port=1", "http://[::1]:1/healthz"),
        ("/sbin/docker-init -- sh entrypoint.sh serve-rollout host=10.0.0.5 token=a=b", "http://10.0.0.5:8001/healthz"),
        ("sh entrypoint.sh train out=serve-reward", None),
        ("demo", None),
        ("", None),
    ],
)
def test_where_health_is_asked(words: str, url: str | None) -> None:
    assert healthcheck.url(words.split()) == url


def test_ports_are_the_servers_defaults() -> None:
    assert {"serve-reward": ServeRewardConfig.port, "serve-rollout": ServeRolloutConfig.port} == healthcheck.SERVERS


class Answers(http.server.BaseHTTPRequestHandler):
    """/healthz with the status that the class has."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_health_is_what_the_server_says(
    port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serve-reward", "host=0.0.0.0", f"port={port}"]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # of the build or the host; this address is never behind it
    assert healthcheck.main(words) == 0
    monkeypatch.setattr(Answers, "status", 503)
    assert healthcheck.main(words) == 1
    assert healthcheck.main(["demo"]) == 0
    assert healthcheck.main(["serve-reward", "port=1"]) == 1
    assert "127.0.0.1:1/healthz" in capsys.readouterr().err
