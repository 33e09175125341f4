# Installs the extension for one PostgreSQL, the one of PG_CONFIG:
#     make -f extension.mk install PG_CONFIG=/usr/lib/postgresql/18/bin/pg_config
#
# Without PGXS: it would need the server's development package, to copy a few text files.

PG_CONFIG ?= pg_config
PYTHON ?= python3
FOLDER = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)/extension

.PHONY: build install uninstall

build: ## build/extension: the control file and the scripts
	$(PYTHON) tools/make_extension.py

install: build
	@test -n "$(shell $(PG_CONFIG) --sharedir)" || { echo "no $(PG_CONFIG) here: give PG_CONFIG=/path/to/pg_config"; exit 1; }
	install -d "$(FOLDER)"
	install -m 644 build/extension/pgq_py* "$(FOLDER)"

uninstall:
	rm -f "$(FOLDER)"/pgq_py.control "$(FOLDER)"/pgq_py--*.sql
