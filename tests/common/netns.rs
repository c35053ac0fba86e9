//! Tests that need addresses other than loopback run themselves again in a network namespace of their own.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::process::Command;

/// The environment variable that is set for tests inside a namespace.
pub const INSIDE: &str = "DAYFLY_INSIDE_NAMESPACE";

/// Runs tests of this binary, which `args` choose, in a new network namespace, which the shell script `setup` prepares.
/// Fails unless as many pass as `passed` says. Needs root, unshare and ip; else it says that it is skipped.
pub fn run(setup: &str, args: &[&str], passed: usize) {
    let can = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).output();
    if !can.is_ok_and(|output| output.status.success()) {
        println!("skipped: needs root, unshare (util-linux) and ip (iproute2)");
        return;
    }
    let script = format!("set -e\n{setup}\nexec \"$@\"");
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", &script, "sh"]).arg(exe).args(args).env(INSIDE, "1");
    let output = command.output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}: see above");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("{passed} passed")), "{args:?} ran inside");
}
