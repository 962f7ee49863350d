# Everything a newcomer, a developer and CI run; each target works from a clean clone.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Cached pip downloads are reused; the stamp is renewed whenever one of its two files changes.
STAMP := $(VENV)/.installed

# For test-torch, such as 2.11 or 2.14.1; pip chooses the torchvision that fits it.
VERSION =

# For gpu-check: cuda, or cpu to try the checks.
DEVICE = cuda

# Three test files at once on two cores: most tests wait for processes. 0 runs them one by one.
WORKERS = 3
PYTEST = -m pytest --benchmark-disable -n $(WORKERS) --dist loadfile --no-loadscope-reorder

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: help demo test pytest test-torch test-oldest gpu-check test-all browser lint workflows wheel bench bench-compare \
	check-baseline asv-continuous asv-nightly asv-publish clean

$(STAMP): pyproject.toml $(wildcard constraints.txt)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	sed '$(if $(VERSION),/^torch/d)' constraints.txt > $(VENV)/constraints.txt
	$(VENV)/bin/pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[dev]' \
		$(if $(VERSION),'torch==$(VERSION).*')
	rm -rf bench_apts.egg-info  # of an older build it would hide entry points from commands run here
	touch $@

demo: $(STAMP)  ## compare APTS, SGD, Adam and ZeRO-2 on real data, at 1 and 2 ranks
	$(BIN)/bench-apts run --suite digits --gpus 1,2 --optimizers apts,sgd,adam,zero2

# At once: mypy uses one core.
test: $(STAMP)  ## lint, types and all tests but the slow ones
	$(MAKE) --jobs=2 lint pytest

pytest: $(STAMP)
	$(BIN)/python $(PYTEST)

test-torch:  ## the tests with VERSION of torch, in an environment of its own
	$(if $(VERSION),,$(error say which torch, for instance VERSION=2.11))
	$(MAKE) VENV=.venv-torch-$(VERSION) .venv-torch-$(VERSION)/.installed
	.venv-torch-$(VERSION)/bin/python $(PYTEST)

test-oldest:  ## the tests with the oldest torch that pyproject.toml allows
	$(MAKE) test-torch VERSION=2.11

# Needs torch and NumPy alone; checks that lack another package are skipped, and say which.
gpu-check: PYTHON_HERE = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
gpu-check:  ## what only a GPU can show, in five minutes: build/gpu-check.json
	$(PYTHON_HERE) bench_apts/selftest/checkout_layout.py build/checked
	PYTHONPATH=$(CURDIR)/build/checked $(PYTHON_HERE) -P -m bench_apts.selftest.run_checks \
		--device $(DEVICE) --out build/gpu-check.json

test-all: $(STAMP)  ## the slow tests too, on examples that hypothesis draws anew
	$(MAKE) lint
	$(BIN)/python -m pytest --benchmark-disable -m "slow or not slow" --hypothesis-profile=random

browser: $(STAMP)  ## the report in Chromium, and by axe: pictures in build/screenshots
	BENCH_APTS_REQUIRE_BROWSER=1 BENCH_APTS_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest \
		tests/reports/test_report_browser.py -m "slow or not slow"

# mypy cannot follow setuptools' package-dir, so it is shown the layout that gets installed.
lint: $(STAMP)
	$(BIN)/ruff check .
	rm -rf build/typed && mkdir -p build/typed
	cp -rs $(CURDIR)/bench_apts build/typed/
	for part in optimizers suites reports; do ln -s $(CURDIR)/$$part build/typed/bench_apts/; done
	$(BIN)/mypy
	ln -s $(CURDIR)/pyproject.toml build/typed/
	cd build/typed && PYTHONPATH=. $(abspath $(BIN))/lint-imports --no-cache

workflows: $(STAMP)  ## .github/workflows by actionlint, which pip fetches from GitHub
	$(BIN)/pip install --quiet --editable '.[workflows]'
	$(BIN)/actionlint

wheel: $(STAMP)  ## build the wheel, install it elsewhere and use it there
	rm -rf dist build/installed
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) -m venv build/installed
	build/installed/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && installed/bin/bench-apts list && installed/bin/bench-apts run --suite digits \
		--gpus 1 --optimizers sgd --trials 0 --seeds 1 --offline --out installed/results

# One thread: kernels of this size lose by more, and their seconds scatter more.
MICRO := OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/benchmarks -m "slow or not slow" \
	--benchmark-only --benchmark-autosave --benchmark-storage=.benchmarks

bench: $(STAMP)  ## microbenchmarks, kept in .benchmarks
	$(MICRO)

bench-compare: $(STAMP)  ## microbenchmarks beside the last kept run
	$(MICRO) --benchmark-compare

# What other branches gained since this one left them is no loss of this one.
BASE ?= origin/main
FORK = base=$$(git merge-base '$(BASE)' HEAD)
COUNTS := ^(per_step|to_target|harness)\.track_

check-baseline: $(STAMP)  ## the gate: base and head interleaved, see docs/regressions.md
	$(FORK) && $(BIN)/bench-apts check --baseline "$$base" $(if $(SUMMARY),--markdown '$(SUMMARY)')

# Never with --quick: a single sample decides nothing. Ends with 1 if a count is worse.
asv-continuous: $(STAMP)  ## counts of base and head, in environments of asv's own
	$(BIN)/asv machine --yes
	$(FORK) && $(BIN)/asv continuous --split --show-stderr --factor 1.0001 --bench '$(COUNTS)' \
		"$$base" HEAD

# asv calls it an error if there is no new commit; with no night before, all commits are new.
asv-nightly: $(STAMP)  ## the commits since the last night, five at most, the latest among them
	$(BIN)/asv machine --yes --machine ci
	ls .asv/results/ci/$$(git rev-parse main | cut -c 1-8)-*.json || \
		$(BIN)/asv run --machine ci --show-stderr --steps 5 \
			$$(ls .asv/results/ci/*-*.json >&2 && echo NEW || echo main^!)

asv-publish: $(STAMP)  ## asv's own pages, in .asv/html
	$(BIN)/asv publish

clean:
	rm -rf build dist .asv .benchmarks .mypy_cache .pytest_cache .ruff_cache .hypothesis
