# What to run, and what it needs. `make demo` and `make test` need root: they make namespaces.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := check

TARGET := $(or $(CARGO_TARGET_DIR),target)
# Flags of the demo: see `make demo DEMO_FLAGS=--help`.
DEMO_FLAGS ?=
# Flags of a benchmark: see `make bench-origin BENCH_FLAGS=--help`.
BENCH_FLAGS ?=
# Seconds for each fuzz target, and which: all of them take four minutes and the build.
FUZZ_SECONDS ?= 40
FUZZ_TARGETS ?= $(notdir $(basename $(wildcard fuzz/targets/*.rs)))

# Where `make install` puts things, as packagers expect: below DESTDIR, which is in no file.
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
# What `make install` takes: release, or debug where a test has built that.
PROFILE ?= release

.PHONY: demo bench-origin bench-upstream bench-quota test fuzz check deps build install clean-lab deny \
	advisories

## The main job on real input: a table, and target/figures/demo.json.
demo: deps
	cargo build --release --workspace --bins
	$(TARGET)/release/longshore-demo --figures $(TARGET)/figures/demo.json $(DEMO_FLAGS)

## The origin under node starts, beside docker-registry: target/figures/bench-origin.json.
bench-origin: deps
	cargo build --release --workspace --bins
	$(TARGET)/release/longshore-bench-origin --figures $(TARGET)/figures/bench-origin.json $(BENCH_FLAGS)

## Many clients of one cold blob of an upstream: target/figures/bench-upstream.json.
bench-upstream: deps
	cargo build --release --workspace --bins
	$(TARGET)/release/longshore-bench-upstream --figures $(TARGET)/figures/bench-upstream.json $(BENCH_FLAGS)

## 500 pushers into one project with a quota beside 500 into many: target/figures/bench-quota.json.
bench-quota: deps
	cargo build --release --workspace --bins
	$(TARGET)/release/longshore-bench-quota --figures $(TARGET)/figures/bench-quota.json $(BENCH_FLAGS)

## Every test, the end-to-end ones included.
test: build
	cargo test --release --workspace --no-fail-fast

## Whatever reads from the network, fed with anything, under the address sanitizer. Corpora are kept
## in fuzz/corpus and grow from run to run; what fails is written to fuzz/artifacts.
fuzz: deps
	@test -x $(TARGET)/tools/bin/cargo-fuzz || cargo install cargo-fuzz --locked --root $(TARGET)/tools
	for target in $(FUZZ_TARGETS); do \
	  RUSTC_BOOTSTRAP=1 PATH="$(abspath $(TARGET))/tools/bin:$$PATH" \
	    cargo fuzz run --fuzz-dir fuzz --target-dir $(TARGET)/fuzz $$target -- -max_total_time=$(FUZZ_SECONDS) \
	    -dict=fuzz/dictionary.txt -max_len=65536 -timeout=10 -print_final_stats=1; \
	done

## The inner loop: format, lints, unit tests.
check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo test --workspace --lib --bins

## The programs as they are shipped, and the agent with hooks for tests beside them. The second
## command selects one binary, so its feature reaches no other.
build: deps
	cargo build --release --workspace --bins
	cargo build --release --workspace --features longshore-tests/hooked --bin longshore-agent-hooked

## What `make build` has made, into the system or a package: programs, units, the registry's user and
## directories, documents. A configuration that is there stays; the templates lie beside the
## documents. Nothing is built, started or enabled.
install:
	packaging/install "$(TARGET)/$(PROFILE)" "$(DESTDIR)" "$(PREFIX)" "$(SYSCONFDIR)"

## What building and the lab need, where it is missing.
deps:
	@packaging/install-build-deps

## Licences, bans and sources of dependencies.
deny:
	cargo deny --all-features check bans licenses sources

## Published faults of dependencies: needs the advisory database, which is fetched.
advisories:
	cargo deny check advisories

## The lab's downloads and images; the next run makes them again.
clean-lab:
	rm -rf -- "$${LONGSHORE_LAB_CACHE:-$$HOME/.cache/longshore-lab}"
