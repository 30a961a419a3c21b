"""Which actor an environment is for, and what it says of the other."""

import pytest

from conf.report import DoctorConfig
from crossthink.errors import UserError
from recipes import doctor, environment
from recipes.environment import check_environment, missing

MAIN = {"megatron-core": "0.16.1"}
NEMO = {"megatron-core": "0.10.0", "nemo-aligner": "0.7.0", "nemo-toolkit": "2.1.0"}


def install(monkeypatch, packages):
    real = environment.metadata.version

    def version(name):
        if name in (*MAIN, *NEMO):
            if name not in packages:
                raise environment.metadata.PackageNotFoundError(name)
            return packages[name]
        return real(name)

    monkeypatch.setattr(environment.metadata, "version", version)


@pytest.mark.parametrize(
    ("packages", "here", "elsewhere", "says"),
    [
        (MAIN, "megatron", "aligner", "nemo-aligner 0.7.0, and this environment has none: `make nemo`"),
        (NEMO, "aligner", "megatron", "megatron-core 0.16.1, and this environment has 0.10.0: `make venv`"),
        ({"megatron-core": "0.16.1+cu13"}, "megatron", "aligner", "nemo-aligner 0.7.0, and this environment has none"),
    ],
    ids=["main", "nemo", "a build of its own"],
)
def test_each_environment_has_its_actor(packages, here, elsewhere, says, monkeypatch):
    install(monkeypatch, packages)
    assert missing(here) is None
    check_environment(here)
    with pytest.raises(UserError, match=f"actor={elsewhere} needs {says}") as refused:
        check_environment(elsewhere)
    assert "pip install" not in str(refused.value), "it would spoil the environment that this one is"


@pytest.mark.parametrize(
    ("packages", "found", "good", "says"),
    [
        (MAIN, "actor=megatron", True, "`make nemo`"),
        (NEMO, "actor=aligner", True, "`make venv`"),
        ({"megatron-core": "0.12.0"}, "of no actor", False, "megatron-core 0.16.1, and this environment has 0.12.0"),
        ({}, "without training", None, "pip install 'crossthink[train]'"),
    ],
    ids=["main", "nemo", "neither", "bare"],
)
def test_the_doctor_names_the_environment(packages, found, good, says, monkeypatch):
    install(monkeypatch, packages)
    parts = {part.name: part for part in doctor.parts(DoctorConfig(ports=[]))}
    line = parts["environment"]
    assert (line.found, line.good) == (found, good) and says in line.meaning
    assert parts["megatron-core"].good is (good if packages else None)
    # NeMo's megatron-core is no fault of its environment: mending it would break it.
    assert "megatron-core" not in parts["training packages"].meaning
