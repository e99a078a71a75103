# Everything a person does here, by name: `make` lists it.
#
# All of it shares one folder of built things, outside the checkout so that several checkouts share it too, and
# one profile: a second profile would compile DataFusion, RocksDB, librdkafka and Burn a second time.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace/target

# --workspace everywhere, so that each command resolves the same features and finds what the others built.
# --ignore-rust-version: the embedded broker's crates declare a newer Rust than they need.
LOCKED := --ignore-rust-version --locked
CARGO_FLAGS := --workspace --release $(LOCKED)

# What follows the command in `make demo ARGS=--exit`, `make test ARGS=frame`, `make bench ARGS=…`.
ARGS ?=

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: deps
deps: ## install what the build needs, or say what is missing
	@scripts/install-deps.sh

.PHONY: build
build: deps ## build the program
	cargo build $(CARGO_FLAGS)
	@echo "built: $(CARGO_TARGET_DIR)/release/millrace"

.PHONY: demo
demo: build ## the whole system on this machine (ARGS=--exit: stop when it has been shown)
	@"$(CARGO_TARGET_DIR)/release/millrace" demo $(ARGS)

.PHONY: test
test: lint kafka ## all checks and all tests: what CI runs
	cargo test $(CARGO_FLAGS) $(ARGS)

# The tests that say something about Kafka run a real one; where it cannot be had, they say that they skip.
.PHONY: kafka
kafka:
	@scripts/kafka.sh fetch || [[ $$? == 3 ]]

.PHONY: lint
lint: deps format-check clippy shell-check deny ## formatting, clippy, shell scripts, licences of dependencies

.PHONY: fmt
fmt: ## format the code
	cargo fmt --all

.PHONY: format-check
format-check:
	cargo fmt --all --check

# `cargo clippy` is `cargo check` with clippy-driver in rustc's place, and a check compiles every dependency
# again, for many minutes. clippy-driver in an ordinary build finds the dependencies that are built already.
# It takes its arguments from CLIPPY_ARGS, joined as below, and passes on to rustc what it does not know:
# the code that it makes is thrown away, so it is not optimised. The program among it is removed, lest
# somebody run it: cargo puts the real one back at the next build, in an instant.
clippy_args := -Dwarnings -Copt-level=0
empty :=
space := $(empty) $(empty)

.PHONY: clippy
clippy: deps
	@trap 'rm -f "$(CARGO_TARGET_DIR)/release/millrace"' EXIT; \
	export CLIPPY_ARGS='$(subst $(space),__CLIPPY_HACKERY__,$(clippy_args))' RUSTC_WORKSPACE_WRAPPER=clippy-driver; \
	echo 'clippy: cargo build $(CARGO_FLAGS) --all-targets'; \
	cargo build $(CARGO_FLAGS) --all-targets --keep-going

.PHONY: shell-check
shell-check:
	@for script in scripts/*.sh .ci/run; do bash -n "$$script"; done
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; fi

.PHONY: deny
deny:
	@if command -v cargo-deny >/dev/null; then \
	  cargo deny --locked check licenses bans sources; \
	else \
	  echo 'skipped: the licences of dependencies; get the tool with: cargo install --locked cargo-deny'; \
	fi

.PHONY: advisories
advisories: ## ask the RustSec database about the dependencies (needs cargo-deny and the network)
	cargo deny --locked check advisories

.PHONY: oracle
oracle: build kafka ## random views against DuckDB from PyPI (ARGS: --rounds N --seed N --live N)
	@python3 -m venv "$(CARGO_TARGET_DIR)/oracle" && "$(CARGO_TARGET_DIR)/oracle/bin/pip" -q install duckdb
	@"$(CARGO_TARGET_DIR)/oracle/bin/python" scripts/duckdb-oracle.py "$(CARGO_TARGET_DIR)/release/millrace" $(ARGS)

.PHONY: test-clients
test-clients: build ## the Python client and Feast's own protos (from PyPI) against a running demo
	@scripts/test-clients.sh

.PHONY: test-object-stores
test-object-stores: build ## models on S3's protocol, and MLflow told of them (moto and MLflow from PyPI)
	@scripts/test-object-stores.sh

.PHONY: test-score-log
test-score-log: build ## the log of scores on S3's protocol through kill -9 (moto and DuckDB from PyPI, a real Kafka)
	@scripts/test-score-log.sh

.PHONY: test-secure-kafka
test-secure-kafka: build ## a real Kafka with TLS, passwords, certificates and access rights
	@scripts/test-secure-kafka.sh

.PHONY: test-export
test-export: build ## exported models in ONNX Runtime (from PyPI) against what was scored
	@scripts/test-export.sh

.PHONY: bench
bench: deps ## the benchmarks (ARGS: a name to run that one alone)
	cargo bench --package millrace-benches $(LOCKED) $(ARGS)

# Days 45 to 99 are measured: before, there are too few labels for trees that are trained once. Day 45 is day 17,667
# since 1970: a period of that length ends there and next in 2066, which is a model that is made once.
LEARNER_DATA ?= ../shared/data
.PHONY: bench-learner
bench-learner: build ## the learner against XGBoost from PyPI (LEARNER_DATA: a folder of transactions and labels; ARGS)
	@python3 -m venv "$(CARGO_TARGET_DIR)/bench-learner"
	@"$(CARGO_TARGET_DIR)/bench-learner/bin/pip" -q install xgboost scikit-learn pyarrow pandas
	"$(CARGO_TARGET_DIR)/release/millrace" --project benches/learner simulate --inputs --from 2018-05-16 \
	  --events transactions=$(LEARNER_DATA)/transactions.parquet labels=$(LEARNER_DATA)/labels.parquet \
	  --output "$(CARGO_TARGET_DIR)/bench-learner/runs" --compare model.every=24h \
	  --compare model.every=17667d,learner.afresh_at_growth=1
	"$(CARGO_TARGET_DIR)/bench-learner/bin/python" benches/learner/compare.py \
	  --run hourly="$(CARGO_TARGET_DIR)/bench-learner/runs/run-1" --run daily="$(CARGO_TARGET_DIR)/bench-learner/runs/run-2" \
	  --run none="$(CARGO_TARGET_DIR)/bench-learner/runs/run-3" \
	  --labels $(LEARNER_DATA)/labels.parquet --limit --output benches/results/learner.json $(ARGS)

.PHONY: bench-new-pattern
bench-new-pattern: build ## how soon new kinds of fraud are caught, hourly, daily, weekly (ARGS: --seeds 1,2 --labels late,early)
	@python3 -m venv "$(CARGO_TARGET_DIR)/bench-learner"
	@"$(CARGO_TARGET_DIR)/bench-learner/bin/pip" -q install xgboost scikit-learn pyarrow pandas
	"$(CARGO_TARGET_DIR)/bench-learner/bin/python" benches/learner/new_pattern.py \
	  --millrace "$(CARGO_TARGET_DIR)/release/millrace" --work "$(CARGO_TARGET_DIR)/bench-learner/new-pattern" \
	  --output benches/results/new_pattern.json $(ARGS)

.PHONY: clean
clean: ## throw away all that was built
	cargo clean
