//! The `hanas-agent` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    hanas_agent::cli::main()
}
