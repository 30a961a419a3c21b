"""crossthink_7b and crossthink_32b as jobs: SLURM accepts their scripts on a cluster that has their nodes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_helpers import RECIPES, published_folder, two_domains
from slurm_cluster import Cluster

from conf.cluster import STYLES, SubmitConfig
from conf.compose import resolve
from slurm import submit
from slurm.parts import components

NODES = {"crossthink_7b": [1, 1, 1], "crossthink_32b": [4, 2, 1]}


@pytest.fixture(scope="module")
def big_cluster() -> Iterator[Cluster]:
    """Nodes of 8 GPUs and 64 CPUs, as many as the 32B run takes. Nothing runs on them."""
    if shutil.which("slurmctld", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin") is None:
        pytest.skip("SLURM is not installed")
    folder = Path(tempfile.mkdtemp(prefix="crossthink-slurm-", dir="/tmp"))
    made = Cluster(folder)
    try:
        started = made.try_script("start", "--nodes", "7", "--gpus", "8", "--cpus", "64")
        assert started.returncode == 0, started.stderr
        yield made
    finally:
        assert made.try_script("stop").returncode == 0
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the published models, and a pool."""
    root = tmp_path_factory.mktemp("cluster_recipes")
    two_domains(root / "pool")
    for recipe in RECIPES:
        shape = resolve("submit", SubmitConfig, [f"recipe={recipe}", "cluster=bare", "out=run"]).model.shape
        published_folder(root / recipe, shape)
    (root / "image.sqsh").touch()
    (root / "image.sif").touch()
    return root


def words(data: Path, recipe: str, engine: str, style: str) -> list[str]:
    image = {"pyxis": "image.sqsh", "apptainer": "image.sif"}
    cluster = "bare" if style == "none" else style
    return [
        f"recipe={recipe}", f"actor={engine}", f"cluster={cluster}", "cluster.gpu=h100", "cluster.shared=true",
        f"model.path={data / recipe}", f"data={data / 'pool'}", f"out={data / 'runs' / recipe}",
        *([] if style == "none" else [f"cluster.image={data / image[style]}"]),
    ]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_nodes_of_a_recipe(recipe: str, data: Path) -> None:
    config = submit.settled(resolve("submit", SubmitConfig, words(data, recipe, "megatron", "none")))
    assert [part.nodes for part in components(config)] == NODES[recipe]
    assert config.rollout.servers == {"crossthink_7b": 8, "crossthink_32b": 4}[recipe]


@pytest.mark.parametrize("style", STYLES)
def test_slurm_accepts_both_recipes_with_both_engines(
    style: str, big_cluster: Cluster, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for key, value in big_cluster.environment.items():
        monkeypatch.setenv(key, value)
    for recipe in RECIPES:
        for engine in ("aligner", "megatron"):
            config = resolve("submit", SubmitConfig, words(data, recipe, engine, style))
            assert submit.run(config, dry_run=True) == 0
            script = tmp_path / f"{recipe}_{engine}.sh"
            script.write_text(capsys.readouterr().out)
            accepted = big_cluster.try_call("sbatch", "--test-only", script)
            assert accepted.returncode == 0, accepted.stderr
            if shellcheck := shutil.which("shellcheck"):
                assert big_cluster.try_call(shellcheck, script).stdout == ""
            assert not (data / "runs").exists()
