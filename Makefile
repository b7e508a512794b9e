# vianet: build, test, install. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all
# The steps of a target build on each other; cargo itself uses all processors.
.NOTPARALLEL:

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
# Where install takes libraries and programs from.
BUILT   ?= target/release

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# The number in the SONAME: grows when the C interface breaks (build.rs has the same one).
SOVERSION := 0

BINDIR     := $(DESTDIR)$(PREFIX)/bin
LIBDIR     := $(DESTDIR)$(PREFIX)/lib
INCLUDEDIR := $(DESTDIR)$(PREFIX)/include
MANDIR     := $(DESTDIR)$(PREFIX)/share/man
MANPAGES   := vianet.1 vianet.3 vianet-client.toml.5 vianet-node.toml.5 vianetd.8

say = @printf '\n== %s\n' "$(1)"

.PHONY: all build debug help
all: build ## Build libraries and programs, optimised (the default)

build:
	$(CARGO) build --release --workspace

debug: ## Build libraries and programs for the tests
	$(CARGO) build --workspace

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

# ---------------------------------------------------------------------------------------------------------- tests
.PHONY: test tools fmt lint doc unit loom
test: tools fmt lint doc debug unit loom test-rdma ## Everything that must be green (installs what it needs when root on Debian)
	@printf '\nmake test: all green\n'

tools: ## Install, or name, the programs that the tests need
	@.ci/tools

fmt: ## Check the format
	$(call say,format)
	$(CARGO) fmt --all --check

# The fuzz targets are a workspace of their own: else nobody sees that they do not build any more.
lint: ## clippy, warnings are errors; the fuzz targets too
	$(call say,clippy)
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings

doc: ## Build the documentation, warnings are errors
	$(call say,documentation)
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items

unit: debug ## Unit and integration tests, the programs of c-tests/ and the claims included
	$(call say,tests)
	@trap '.ci/leftovers' EXIT; $(CARGO) test --workspace --no-fail-fast && VIANET_TEST_TLS=1 $(CARGO) test --test conn

# The code that loom checks is the code that runs (src/via/sync.rs); its build is apart because of the cfg, and takes longer
# than the tests: so a little optimisation only.
loom: ## Check ring, wake words and channel with loom
	$(call say,loom)
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=3 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=0 \
	  $(CARGO) test --release --target-dir target/loom -p vianet --lib loom_

# Bindings are committed; headers are needed for these two only.
.PHONY: test-rdma rdma-bindings
test-rdma: ## Run the RDMA tests in virtual machines with software devices (skips where there are none)
	$(call say,rdma)
	CARGO="$(CARGO)" tests/rdma-vm/test

rdma-bindings: ## Make src/via/rdma/layout.rs from the headers of libibverbs and librdmacm
	src/via/rdma/layout.sh

FAILOVERS ?= 400
SEED      ?=
LOAD      ?= 0
REPORT    ?= target/soak
# Ctrl-C is for the soak alone, which then counts and reports what it has.
.PHONY: soak
soak: build ## Lose nodes and servers FAILOVERS times under clients that keep books; report in REPORT (SEED, LOAD: threads that take time)
	$(CARGO) test --release -p vianet-cli --test soak --no-run
	@mkdir -p "$(REPORT)"; trap '' INT; \
	  VIANET_SOAK_FAILOVERS=$(FAILOVERS) VIANET_SOAK_SEED=$(SEED) VIANET_SOAK_LOAD=$(LOAD) VIANET_SOAK_REPORT="$$(realpath "$(REPORT)")" \
	  $(CARGO) test --release -q -p vianet-cli --test soak -- --nocapture nothing_is_lost_or_run_twice

.PHONY: bench bench-postgres bench-rdma fuzz
bench: build ## Measure; compare with the floors (vianet bench --check: exit status 1 below one)
	target/release/vianet bench

bench-postgres: build ## Measure what it costs pgbench that its sessions are followed
	$(CARGO) test --release -q -p vianet-cli --test pg_observer -- --ignored --nocapture

bench-rdma: build ## Compare with rsockets, AF_SMC and TCP over software RDMA devices in a virtual machine
	tests/rdma-vm/bench

FUZZ_SECONDS ?= 30
fuzz: ## Run every fuzz target for FUZZ_SECONDS (needs nightly and cargo-fuzz)
	@$(CARGO) +nightly fuzz --version >/dev/null 2>&1 \
	  || { echo "make fuzz needs: rustup toolchain install nightly; cargo install cargo-fuzz"; exit 1; }
	for target in $$($(CARGO) +nightly fuzz list); do \
	  printf '\n== fuzz %s\n' "$$target"; \
	  $(CARGO) +nightly fuzz run "$$target" -- -max_total_time=$(FUZZ_SECONDS) -max_len=70000; \
	done

# ----------------------------------------------------------------------------------------------------------- demo
.PHONY: demo demo-postgres
demo: build ## See a failover: write rows by name, kill the active node, go on; ends with a verdict
	target/release/vianet demo

demo-postgres: build ## The same with a real PostgreSQL primary and its synchronous standby
	target/release/vianet demo --engine postgres

# --------------------------------------------------------------------------------------------------- installation
.PHONY: install uninstall
install: ## Install below PREFIX (default /usr/local); DESTDIR for packagers
	@test -e $(BUILT)/libvianet.so || { echo "run \`make\` first"; exit 1; }
	install -d $(BINDIR) $(LIBDIR)/pkgconfig $(INCLUDEDIR) $(addprefix $(MANDIR)/man,1 3 5 8)
	install -m 755 $(BUILT)/vianet $(BUILT)/vianetd $(BINDIR)
	install -m 644 $(BUILT)/libvianet.so $(LIBDIR)/libvianet.so.$(VERSION)
	ln -sf libvianet.so.$(VERSION) $(LIBDIR)/libvianet.so.$(SOVERSION)
	ln -sf libvianet.so.$(SOVERSION) $(LIBDIR)/libvianet.so
	install -m 644 $(BUILT)/libvianet_preload.so $(LIBDIR)
	install -m 644 include/vianet.h $(INCLUDEDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' packaging/vianet.pc.in > $(LIBDIR)/pkgconfig/vianet.pc
	for page in $(MANPAGES); do install -m 644 packaging/man/$$page $(MANDIR)/man$${page##*.}; done
	@if [ -z "$(DESTDIR)" ] && [ "$$(id -u)" = 0 ]; then ldconfig || true; fi

uninstall: ## Remove what install put below PREFIX
	rm -f $(BINDIR)/vianet $(BINDIR)/vianetd $(LIBDIR)/libvianet.so* $(LIBDIR)/libvianet_preload.so \
	  $(LIBDIR)/pkgconfig/vianet.pc $(INCLUDEDIR)/vianet.h
	for page in $(MANPAGES); do rm -f $(MANDIR)/man$${page##*.}/$$page; done

# Beside each SQL server, into the directories of the PostgreSQL installation that PG_CONFIG belongs to.
PG_CONFIG ?= pg_config
EXT_BUILD ?= target/server-ext

pgxs = $(MAKE) -C $(EXT_BUILD) -f $(CURDIR)/server-ext/Makefile VPATH=$(CURDIR)/server-ext \
  PG_CONFIG=$(PG_CONFIG) DESTDIR=$(abspath $(DESTDIR))

.PHONY: ext-headers install-ext uninstall-ext
ext-headers:
	@dir=$$($(PG_CONFIG) --includedir-server 2>/dev/null) && test -e "$$dir/postgres.h" \
	  || { echo "make install-ext needs PostgreSQL's server headers (Debian 12: apt-get install postgresql-server-dev-15); PG_CONFIG=PATH chooses the installation"; exit 1; }
	@mkdir -p $(EXT_BUILD) && rm -f $(EXT_BUILD)/vianet.o $(EXT_BUILD)/vianet.so

install-ext: ext-headers ## Build the PostgreSQL extension `vianet` and install it beside a server (PG_CONFIG says of which)
	$(pgxs) install

uninstall-ext: ext-headers ## Remove what install-ext put there
	$(pgxs) uninstall
