"""The Dockerfile, .dockerignore and the scripts beside them, as far as files can be checked."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from check_gpu_targets import (
    BASES,
    check_files,
    check_resolution,
    ignore_patterns,
    ignored,
    main,
    read_dockerfile,
    stand_in,
)
from docker_helpers import ROOT
from project_requirements import read_project

TARGETS = ("cpu", "megatron", "nemo", "rollout")
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
STAGES = read_dockerfile(DOCKERFILE)
PATTERNS = ignore_patterns((ROOT / ".dockerignore").read_text("utf-8"))
OCI = "org.opencontainers.image."


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_a_service(target: str) -> None:
    stage = STAGES[target]
    assert stage.rests("USER")[-1] == "10001:10001"
    assert 'CMD ["python3", "/usr/local/lib/crossthink/healthcheck.py"]' in stage.rests("HEALTHCHECK")[0]
    assert stage.rests("ENTRYPOINT") == ['["sh", "/usr/local/lib/crossthink/entrypoint.sh"]']
    labels = dict(re.findall(rf'{re.escape(OCI)}(\w+)="([^"]+)"', " ".join(stage.rests("LABEL"))))
    assert labels.keys() == {"title", "description", "version", "revision", "licenses"}
    assert labels["title"] == f"crossthink-{target}"
    assert f"VERSION={read_project(ROOT / 'pyproject.toml')['version']}" in stage.rests("ARG")


def test_nothing_secret_is_baked_in_and_no_cache_is_left() -> None:
    for stage in STAGES.values():
        assert not stage.rests("ADD")
        names = re.findall(r"(\w+)=", " ".join(stage.rests("ENV") + stage.rests("ARG")))
        assert not [name for name in names if re.search("TOKEN|SECRET|PASSW|KEY|CRED", name)]
        for step in stage.rests("RUN"):
            assert step.count("pip install") + step.count("pip wheel") == step.count("--no-cache-dir")


def test_packages_are_installed_before_sources_are_copied() -> None:
    packages = [pattern.rstrip("*") for pattern in find_include()]
    assert not set(" ".join(STAGES["cpu-packages"].rests("COPY")).split()) & set(packages)
    for target in TARGETS:
        assert "from=wheel" in STAGES[target].rests("RUN")[-1], "nothing is installed after the sources"


def test_the_cpu_image_has_what_every_command_needs() -> None:
    """A tracker is a choice of the user's, `dev` is for the tests."""
    extras = re.findall(r"--extra (\w+)", " ".join(STAGES["cpu-packages"].rests("RUN")))
    assert {*extras, "wandb", "mlflow", "dev"} == read_project(ROOT / "pyproject.toml")["optional-dependencies"].keys()


def test_the_wheel_stage_has_every_package() -> None:
    copied = " ".join(STAGES["wheel"].rests("COPY")).split()
    assert {pattern.rstrip("*") for pattern in find_include()} <= set(copied)


def find_include() -> list[str]:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    found = re.search(r"\[tool\.setuptools\.packages\.find\]\ninclude = \[(.*?)\]", text, re.DOTALL)
    assert found
    return re.findall(r'"([^"]+)"', found[1])


def test_nothing_is_wrong_with_the_files() -> None:
    assert check_files(ROOT) == []


@pytest.mark.parametrize(
    ("what", "instead", "says"),
    [
        ("python:3.11-slim-bookworm", "python:latest", "cpu: docker.io/library/python:latest names no tag"),
        ("python:3.11-slim-bookworm", "python", "cpu: docker.io/library/python names no tag"),
        ("docker/healthcheck.py", "docker/health.py", "cpu: COPY docker/health.py does not exist"),
        ("COPY slurm slurm", "COPY tests slurm", "wheel: COPY tests is kept out by .dockerignore"),
        ("COPY docker/entrypoint.sh ", "COPY ", "cpu: ENTRYPOINT entrypoint.sh is not copied"),
        ("from=wheel,", "from=wheels,", "nemo: RUN from=wheels is no stage"),
        ("--from=cpu-packages", "--from=packages", "cpu: COPY from=packages is no stage"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, what: str, instead: str, says: str) -> None:
    assert what in DOCKERFILE
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace(what, instead))
    for each in ROOT.iterdir():
        if each.name not in ("Dockerfile", ".git") and not each.name.startswith(".venv"):
            (tmp_path / each.name).symlink_to(each)
    assert says in check_files(tmp_path)


def test_dockerfile_is_read_as_docker_reads_it() -> None:
    text = 'ARG BASE=a:1\nFROM ${BASE} AS one\n# RUN no\nRUN x \\\n    # no\n    && y\nFROM one AS two\nCMD ["a"]\n'
    stages = read_dockerfile(text)
    assert [(stage.name, stage.base) for stage in stages.values()] == [("one", "a:1"), ("two", "one")]
    assert stages["one"].rests("RUN") == ["x && y"]
    assert stages["two"].steps == [("CMD", '["a"]')]


@pytest.mark.parametrize(
    "path",
    [".venv/bin/python", ".venv-nemo/x", ".git/config", "runs/demo/config.yaml", "tests/conftest.py", ".env",
     "conf/__pycache__/a.pyc", "recipes/rl/__pycache__/b.pyc", "crossthink.egg-info/PKG-INFO", "models/a.safetensors",
     "docker/build_cpu.sh", "benchmarks/rollout.py", "docs/demo.png", "compose.yaml", "requirements/other.lock"],
)  # fmt: skip
def test_stays_out_of_the_build(path: str) -> None:
    assert ignored(path, PATTERNS)


@pytest.mark.parametrize(
    "path",
    ["pyproject.toml", "requirements/nemo.lock", "recipes/rl/loop.py", "docker/image_pins.py", "conf/recipe/tiny.yaml",
     "benchmarks/gpu_check.py"],
)  # fmt: skip
def test_goes_into_the_build(path: str) -> None:
    assert not ignored(path, PATTERNS)


@pytest.mark.parametrize(
    ("tool", "words"),
    [("hadolint", ["Dockerfile"]), ("shellcheck", ["docker/entrypoint.sh", "docker/build_cpu.sh", ".ci/run"])],
)
def test_linters_are_content(tool: str, words: list[str]) -> None:
    binary = Path(sys.executable).parent / tool
    if not binary.is_file():
        pytest.skip(f"{tool} is in the extra dev, and not in this environment")
    done = subprocess.run([binary, *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_pip_takes_a_stand_in_for_what_it_says(tmp_path: Path) -> None:
    """A build of NVIDIA's counts as a pre-release, so pip takes it where it is pinned and only there."""
    stand_in(tmp_path, "torch", "2.10.0a0+b558c986e8.nv25.11")

    def would_take(requirement: str) -> bool:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-index", "--quiet"]
        command += ["--disable-pip-version-check", "--find-links", str(tmp_path), requirement]
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0

    assert would_take("torch==2.10.0a0+b558c986e8.nv25.11")
    assert not would_take("torch==2.10.0")


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_pip_resolves_every_gpu_target() -> None:
    assert main(["--resolve"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_resolution_that_cannot_be_is_reported() -> None:
    """A package that no index has: pip's own words, with the step that asked for it."""
    stage = read_dockerfile(DOCKERFILE.replace("jinja2 safetensors", "crossthink-no-such-package"))["rollout"]
    (wrong,), _ = check_resolution(stage, BASES["rollout"])
    assert wrong.startswith("rollout: /opt/crossthink/bin/python -m pip") and "crossthink-no-such-package" in wrong
