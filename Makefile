# Two commands do everything on a fresh machine: `make demo` and `make test`. They install into .venv first, and
# `make test` into .venv-nemo too, NeMo-Aligner's environment (`make nemo`), which runs the same code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NEMO_VENV := .venv-nemo
NEMO_LOCK := requirements/nemo.lock
# .venv-nemo's own tests and those of code that meets other versions of its libraries there; and what `make test-slow` adds.
NEMO_TESTS := tests/crossthink tests/reward_server/protocols/test_protocol_aligner.py $(addprefix tests/recipes/, \
	actors models test_environment.py test_convert_nemo.py test_train_aligner.py test_train_aligner_ppo.py) \
	$(addprefix tests/recipes/rollout/test_rollout_, local_engine.py decoder.py continuous.py sampler.py)
NEMO_MORE := tests/conf tests/data_prep tests/reward_server tests/recipes/rl tests/recipes/rollout
# Files in their order: pytest-xdist would leave those with few tests, which are the longest, to the end.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder --durations 40 --durations-min 3
# On Linux PyPI's torch brings CUDA (several GB). For CPU wheels: TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
INDEX := $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
INSTALL := --disable-pip-version-check install --quiet
PIP := $(BIN)/pip $(INSTALL) --constraint constraints.txt
NEMO_PIP := $(NEMO_VENV)/bin/pip $(INSTALL)

.PHONY: venv nemo demo study test test-main test-nemo test-slow lint format clean

define new_venv
test -x $(1)/bin/python || $(PYTHON) -m venv $(1) || \
	{ echo "python3 -m venv failed: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
endef

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute or two)"
	@$(call new_venv,$(VENV))
	@$(PIP) $(INDEX) torch==2.13.0
	@$(PIP) --editable '.[train,eval,synth,dev]'
	@touch $@

nemo: $(NEMO_VENV)/.installed

# The lock without dependencies, then those that this build of torch has beside it: CUDA's libraries, or none.
$(NEMO_VENV)/.installed: pyproject.toml $(NEMO_LOCK)
	@echo "installing into $(NEMO_VENV) (several minutes)"
	@$(call new_venv,$(NEMO_VENV))
	@$(NEMO_PIP) --no-deps $(INDEX) torch==2.13.0
	@$(NEMO_PIP) --no-deps --requirement $(NEMO_LOCK)
	@$(NEMO_PIP) --constraint $(NEMO_LOCK) torch==2.13.0
	@$(NEMO_PIP) --no-deps --editable .
	@touch $@

demo: venv
	@$(BIN)/crossthink demo

# An hour on two cores; stopped, the same command goes on.
study: venv
	@$(BIN)/crossthink sweep recipe=study out=runs/study parallel=2 resume=true

test: test-main test-nemo

# Three processes on two cores: many tests wait, for servers, for SLURM, for a run's ranks.
test-main: venv
	@slurm/local_cluster.sh install || echo "tests on a real SLURM are skipped"
	$(BIN)/python -m pytest --numprocesses 3 $(SIDE_BY_SIDE)

# With `make venv` too: NeMo-Aligner's engine is held to the Megatron engine's numbers.
test-nemo: nemo venv
	$(NEMO_VENV)/bin/python -m pytest --numprocesses 2 $(SIDE_BY_SIDE) $(NEMO_TESTS)

# ALIGNER_EXAMPLES=DIR: the folder `examples` of NeMo-Aligner 0.7.0's sources, for its own trainers.
test-slow: venv nemo
	$(BIN)/python -m pytest -m slow
	$(NEMO_VENV)/bin/python -m pytest -m slow $(NEMO_TESTS)
	$(NEMO_VENV)/bin/python -m pytest $(NEMO_MORE)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck .ci/run $$(git ls-files --cached --others --exclude-standard '*.sh')

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(NEMO_VENV) .pytest_cache .hypothesis .ruff_cache .import_linter_cache .mypy_cache *.egg-info
