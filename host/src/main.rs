//! The `hanas` program; see the library's `cli` module.

use std::process::ExitCode;

fn main() -> ExitCode {
    hanas::cli::main()
}
