# The two commands: `make demo` and `make test`. Both do all their own set-up and need a Rust
# toolchain, a C++ compiler, Python 3 with pip, and make.
CARGO ?= cargo
# Two OpenMP threads that spin on a busy two-core machine are slower than one.
export OMP_WAIT_POLICY ?= passive
# These would put binaries where they do not find libtorch (see models/build/rpath.rs).
ifneq ($(RUSTFLAGS),)
$(error RUSTFLAGS is set; unset it, it breaks the path to libtorch)
endif
ifneq ($(CARGO_TARGET_DIR),)
$(error CARGO_TARGET_DIR is set; unset it, the binaries find libtorch relative to ./target)
endif

.PHONY: help setup build demo test test-boards hil agent-aarch64 firmware bench lint doc clean

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## libtorch into third_party/ (once)
	@models/libtorch/setup.sh third_party/libtorch

build: setup ## hanas and hanas-agent, optimised
	$(CARGO) build --release --locked --workspace

demo: build ## Profile, search, train, export and verify on this machine; writes demo/report.html
	tests/demo.sh

# libtorch's first: what follows puts the agent without it back.
test: build ## All tests
	$(CARGO) test --release --locked --workspace --features hanas-agent/torch --test libtorch
	$(CARGO) test --release --locked --workspace
	$(CARGO) check --release --locked -p hanas --no-default-features

test-boards: build ## Agents for other processors, on emulators; WITHOUT="aarch64" for fewer
	tests/boards/run.sh $(WITHOUT)

hil: build ## Pass or fail for each board of tests/hil; BOARDS="local raspberry-pi" for some
	target/release/hil $(BOARDS)

agent-aarch64: ## The agent for 64-bit ARM boards, target/boards/hanas-agent-aarch64
	device-agent/cross.sh aarch64

firmware: ## The Cortex-M4 firmware
	tests/boards/firmware.sh

bench: build ## The figures, as a table and in target/figures.json; ONLY="reruns racing" for some
	target/release/figures $(ONLY)

lint: setup ## Format, clippy, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --features hanas-agent/torch --all-targets -- -D warnings
	$(CARGO) clippy --release --locked -p hanas --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

doc: setup ## Rust documentation in target/doc; the book's sources are in docs/src
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

clean: ## All but libtorch
	$(CARGO) clean
	rm -rf demo
