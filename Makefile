# rtcbridge. `make help` lists the targets.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Of `make demo`: where the page is served.
PORT ?= 8080
HOST ?= 127.0.0.1
TLS ?= 0

BIN := .venv/bin
FAST := -n 2 --dist loadfile -m "not browser and not slow"
SLOW := -n 2 --dist loadfile -m "slow and not browser and not cluster"
CHECKED := src tests benchmarks tools examples console

# Of `make prove`: examples of the life machine, and steps in each.
PROVE ?= 3000,60

.PHONY: help demo test test-fast test-cluster prove chaos check format page docs site simulate bench bench-relay bench-media bench-bridges clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make demo also takes PORT=9000, HOST=0.0.0.0, TLS=1"

demo: ## set up and run everything on this machine: bridge, nodes, page
	@tools/setup.sh demo
	@tools/page.sh
	@exec $(BIN)/rtcbridge demo --host "$(HOST)" --port "$(PORT)" $(if $(filter-out 0 no false,$(TLS)),--tls)

test: ## set up what the tests need, check the code, and run all tests
	@tools/setup.sh dev
	@tools/chromium.sh
	@tools/postgres.sh
	@tools/haproxy.sh
	@tools/coturn.sh
	@tools/helm.sh
	@$(MAKE) --no-print-directory check
	@$(BIN)/python -m pytest $(FAST) $(ARGS)
	@$(BIN)/python -m pytest $(SLOW) $(ARGS)
	@$(BIN)/python -m pytest -m cluster $(ARGS)
	@$(BIN)/python -m pytest -m browser $(ARGS)

test-fast: ## the tests that need neither a browser nor servers
	@tools/setup.sh dev
	@$(BIN)/python -m pytest $(FAST) $(ARGS)

test-cluster: ## of the tests, only those with several bridges: the wire's transcripts, every fault once, a rolling restart
	@tools/setup.sh dev
	@tools/postgres.sh
	@tools/haproxy.sh
	@$(BIN)/python -m pytest -m cluster $(ARGS)

prove: ## search and try much longer what docs/proof.md says (half an hour or more)
	@tools/setup.sh dev
	@PROVE=$(PROVE) $(BIN)/python -m pytest -q -s tests/gateway/test_claims.py tests/gateway/test_life_machine.py tests/engine/test_model_check.py $(ARGS)

chaos: ## 100,000 reservations on three bridges while everything around them is killed, frozen, wiped and cut (minutes)
	@tools/setup.sh dev
	@tools/postgres.sh
	@PYTHONPATH=src:tests $(BIN)/python -m chaos $(ARGS)

check: ## format, lint, strict types, import directions, generated files
	@tools/setup.sh dev
	@$(BIN)/ruff format --check $(CHECKED)
	@$(BIN)/ruff check --quiet $(CHECKED)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports
	@$(BIN)/python tools/diagrams.py --check
	@$(BIN)/python tools/schema.py --check
	@$(BIN)/python tools/wire_types.py --check
	@$(BIN)/python tools/reference.py --check
	@$(BIN)/python tools/site.py --check
	@$(BIN)/python console/current.py

format: ## format the Python code
	@tools/setup.sh dev
	@$(BIN)/ruff check --quiet --fix --select I $(CHECKED)
	@$(BIN)/ruff format --quiet $(CHECKED)

page: ## build the page and the TypeScript client (npm)
	@tools/page.sh --build

docs: ## write the generated pages of docs/, protocol/schema.json, and the TypeScript types of it
	@tools/setup.sh dev
	@$(BIN)/python tools/diagrams.py
	@$(BIN)/python tools/schema.py
	@$(BIN)/python tools/wire_types.py
	@$(BIN)/python tools/reference.py

site: ## build the documentation site into build/site, strictly
	@tools/setup.sh dev
	@$(BIN)/python tools/site.py

simulate: ## simulate the reference scenario and write its table into docs/ (minutes)
	@tools/setup.sh dev
	@$(BIN)/python tools/simulation.py $(ARGS)

bench: bench-relay bench-media bench-bridges ## measure against other servers and write docs/benchmarks.md

bench-relay: ## the relay of messages alone
	@tools/setup.sh dev
	@$(BIN)/python -m benchmarks.relay $(ARGS)

bench-media: ## browser to node and back alone
	@tools/setup.sh dev
	@tools/chromium.sh
	@$(BIN)/python -m benchmarks.media $(ARGS)

bench-bridges: ## what several bridges cost
	@tools/setup.sh dev
	@$(BIN)/python -m benchmarks.cluster.bridges $(ARGS)

clean: ## remove what was installed and built here, except the page
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis console/node_modules sdk/js/node_modules
