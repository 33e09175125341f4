# The targets a developer uses. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SQL := sql/schema.sql sql/functions/*.sql migrations/*.sql migrations/versions/*.sql tools/extension.sql

.PHONY: help demo test model breaks soak bench lint format sql sync reference migration install dist clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli]' --group dev
	@touch $@

demo: $(READY) ## real work, end to end: thousands of files, four workers, one of them killed
	$(BIN)/pgq-py demo

test: $(READY) ## all tests, on every PostgreSQL that is present (args="--pg 18 -k name" narrows it)
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal $(args)

model: $(READY) ## random calls against a model of the queue: 2,000 examples (examples=N for others)
	MODEL_EXAMPLES=$(or $(examples),2000) $(BIN)/python -m pytest -s tests/test_model.py --pg 18 -k model_does $(args)

breaks: $(READY) ## plant a mistake for each row of docs/faults.md, and see a test fail (args="8 9" for some)
	$(BIN)/python tests/breaks.py $(args)

soak: $(READY) ## torture it while everything fails, and account for every job (seed=1 minutes=30 pg=18)
	cd tests && ../$(BIN)/python -m soak $(if $(seed),--seed $(seed)) $(if $(minutes),--minutes $(minutes)) \
		$(if $(pg),--pg $(pg)) $(args)

$(VENV)/.bench: $(READY)
	$(BIN)/python -m pip install --quiet --group bench
	@touch $@

bench: $(VENV)/.bench ## measure against bare statements and other queues, an hour (args="W1 W4 --quick" narrows it)
	$(BIN)/python -m benchmarks $(args)

lint: $(READY) ## ruff, mypy, squawk on the SQL, and that generated files are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/squawk $(SQL)
	$(BIN)/python tools/make_sync.py --check
	$(BIN)/python tools/make_sql.py --check
	$(BIN)/python tools/make_reference.py --check
	$(BIN)/python tools/make_cli.py --check

format: $(READY) ## let ruff format the Python
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

sync: $(READY) ## write the synchronous package from the asynchronous one
	$(BIN)/python tools/make_sync.py

sql: $(READY) ## copy the functions of sql/ into the newest migration
	$(BIN)/python tools/make_sql.py

reference: $(READY) ## write docs/reference.md from the functions' comments, docs/cli.md from the help texts
	$(BIN)/python tools/make_reference.py
	$(BIN)/python tools/make_cli.py

migration: $(READY) ## begin the next migration: make migration name=add_something
	$(BIN)/python tools/make_sql.py new $(name)

install: ## the extension, for CREATE EXTENSION: make install PG_CONFIG=/path/to/pg_config
	$(MAKE) -f extension.mk install

dist: $(READY) ## build the wheel, and try it in an environment of its own
	$(BIN)/python tools/try_wheel.py

clean: ## remove what was built, and the environment
	rm -rf $(VENV) build dist
