# make demo: watch a clip of a street, see an incident.   make test: the fast tests.
# make kafka: Apache Kafka for the tests, which skip what needs it where it is not (Java 17, Maven).
PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONSTRAINT := $(shell command -v nvidia-smi >/dev/null 2>&1 || echo -c deploy/constraints-cpu.txt)
SECONDS_OF_DEMO ?= 90
BIN := .venv/bin
COPY_JARS := org.apache.maven.plugins:maven-dependency-plugin:2.8:copy-dependencies
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test slow lint check bench gpu soak nano kafka clean

demo: .venv/run
	$(BIN)/longwatch demo --seconds $(SECONDS_OF_DEMO)

test: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

slow: .venv/dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 --dist loadfile --durations 40

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports

check: lint test

bench: .venv/dev
	$(BIN)/python tests/bench/cameras.py
	$(BIN)/python tests/bench/prefill.py
	$(BIN)/python tests/bench/memory.py
	$(BIN)/python tests/bench/flops.py
	$(BIN)/python tests/bench/alerts.py
	$(BIN)/python tests/bench/receivers.py
	$(BIN)/python tests/bench/storm.py
	$(BIN)/python tests/bench/evidence.py
	$(BIN)/python tests/bench/log.py
	$(BIN)/python tests/bench/writes.py
	$(BIN)/python tests/bench/history.py --sizes 0,20000 --rounds 5

gpu: .venv/dev
	$(BIN)/python tests/bench/gpu.py

soak: .venv/dev
	$(BIN)/python tests/bench/soak.py
	$(BIN)/python tests/bench/agreement.py
	$(BIN)/python tests/bench/coverage.py
	$(BIN)/python tests/bench/kills.py
	$(BIN)/python tests/bench/clocks.py
	$(BIN)/python tests/bench/fuzz_receivers.py
	$(BIN)/python tests/bench/outages.py postgres
	$(BIN)/python tests/bench/outages.py broker
	$(BIN)/python tests/bench/outages.py rolling
	$(BIN)/python tests/bench/outages.py first-starts
	$(BIN)/python tests/bench/outages.py refusing
	$(BIN)/python tests/bench/failover.py killed
	$(BIN)/python tests/bench/upgrades.py
	$(BIN)/python tests/bench/analyzers.py
	$(BIN)/python tests/bench/analyzers.py --zombies 50
	$(BIN)/python tests/bench/overload.py

kafka: .kafka/fetched

.kafka/fetched: pom.xml
	rm -f .kafka/*.jar
	mvn -q -B $(COPY_JARS) -DoutputDirectory=$(CURDIR)/.kafka
	touch $@

nano: .venv/dev
	$(BIN)/pip install -q $(CONSTRAINT) -e '.[nano]'
	$(BIN)/python -m analyzer.nano.workshop.school.reels --folder .nano --many 3054
	$(BIN)/python -m analyzer.nano.workshop.school.train --folder .nano

clean:
	rm -rf .venv .nano .kafka

.venv/run: pyproject.toml deploy/constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q $(CONSTRAINT) -e '.[demo]'
	touch $@

.venv/dev: .venv/run
	$(BIN)/pip install -q $(CONSTRAINT) -e '.[dev]'
	touch $@
