"""The cpu image as buildah builds it: the demo to its end, and the services of compose.yaml used together."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_helpers import ENTRYPOINT, LIMIT_S, Image, built_image, compose_services

from crossthink.procs import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT_S),
    pytest.mark.skipif(shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah, and root"),
]
TOKEN = "sesame"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """CROSSTHINK_ROOTFS: a Debian root file system that saves the minutes of debootstrap."""
    with built_image(tmp_path_factory.mktemp("image"), os.environ.get("CROSSTHINK_ROOTFS")) as built:
        yield built


def test_the_demo_runs_to_its_end(image: Image, tmp_path: Path) -> None:
    runs = open_folder(tmp_path / "runs")
    done = image.run(*ENTRYPOINT, "demo", volumes={runs: "/work/runs"})
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((runs / "demo/report.json").read_text())
    assert report["final_reward"] > report["base_reward"]
    assert (runs / "demo/report.html").stat().st_uid == 10001


def test_services_of_compose_work_together(image: Image, tmp_path: Path) -> None:
    """Their own command lines, on loopback and on free ports: there is no network of containers here.

    What is added makes them shorter: fewer steps, and a thread each, as they share the cores.
    """
    services = {name: one for name, one in compose_services().items() if "cpu" in one["profiles"]}
    ports = {"8900": str(free_port()), "8001": str(free_port())}
    words = {name: [loopback(word, ports) for word in one["command"]] for name, one in services.items()}
    places = {"${CROSSTHINK_RUNS:-runs}": open_folder(tmp_path / "runs"), "refit": open_folder(tmp_path / "refit")}
    secrets = open_folder(tmp_path / "secrets")
    (secrets / "crossthink_token").write_text(TOKEN + "\n")

    def volumes(name: str) -> dict[Path, str]:
        mounts = (entry.split(":/", 1) for entry in services[name].get("volumes", ()))
        return {secrets: "/run/secrets:ro", **{places[here]: f"/{there}" for here, there in mounts}}

    words["base"] += ["actor.threads=1", "warm_start.steps=40"]
    words["rollout"] += ["threads=1"]
    words["trainer"] += ["actor.threads=1", "steps=3"]
    made = image.run(*ENTRYPOINT, *words["base"], volumes=volumes("base"))
    assert made.returncode == 0, made.stderr[-3000:]
    with (
        image.serving(words["reward"], tmp_path / "reward.log", volumes("reward")),
        image.serving(words["rollout"], tmp_path / "rollout.log", volumes("rollout")),
    ):
        trained = image.run(*ENTRYPOINT, *words["trainer"], volumes=volumes("trainer"))
        assert trained.returncode == 0, trained.stderr[-3000:]
    run = tmp_path / "runs/tiny"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(line["rollout_servers"] == 1 and line["invalid"] == 0 for line in lines)
    assert len({line["reward"] for line in lines}) > 1
    assert not list(places["refit"].iterdir()), "weights are left in the refit volume"
    assert TOKEN not in (run / "config.yaml").read_text()


def loopback(word: str, ports: dict[str, str]) -> str:
    """A word of a service's command with this machine in place of the services' addresses."""
    word = re.sub(r"^host=.*", "host=127.0.0.1", word)
    word = re.sub(r"http://[\w-]+:(\d+)", lambda found: f"http://127.0.0.1:{ports[found[1]]}", word)
    return re.sub(r"^port=(\d+)$", lambda found: f"port={ports[found[1]]}", word)


def open_folder(path: Path) -> Path:
    """A new folder that the image's user may write to, as the volumes of compose.yaml are."""
    path.mkdir()
    path.chmod(0o1777)
    return path
