//! The `dayfly` program: passes its arguments to the library and returns the exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    ExitCode::from(dayfly::cli::main(arguments))
}
