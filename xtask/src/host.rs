//! What a figure was measured on: machine, compiler, revision, date.

use serde::Serialize;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The machine and the build.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// Model of the processor.
    pub cpu: String,
    /// Logical cores that this process may use.
    pub cores: usize,
    /// Operating system and architecture.
    pub os: String,
    /// Version of the compiler in use.
    pub rustc: String,
    /// Git revision that this binary was built from, with `-dirty` when files differed from it (see build.rs).
    pub revision: String,
}

impl Host {
    /// Reads what this machine says of itself; "unknown" where it does not.
    pub fn read() -> Host {
        Host {
            cpu: cpu().unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            os: os(),
            rustc: output("rustc", &["--version"]).unwrap_or_else(|| "unknown".into()),
            revision: env!("XTASK_REVISION").to_string(),
        }
    }
}

fn cpu() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn os() -> String {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).map(|n| n.trim_matches('"'));
    format!("{} ({})", pretty.unwrap_or(std::env::consts::OS), std::env::consts::ARCH)
}

/// What a program prints, or `None` if it cannot be run or fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let done = Command::new(program).args(arguments).output().ok()?;
    done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_string())
}

/// Date and time now, as `2026-11-24T13:00:00Z`.
pub fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    utc(seconds)
}

/// Date and time of a Unix time (days to date: H. Hinnant, "chrono-compatible low-level date algorithms").
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// The command line that started this process, for the report.
pub fn command_line() -> String {
    std::iter::once("cargo xtask".to_string()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_704_067_199), "2023-12-31T23:59:59Z");
    }

    #[test]
    fn the_host_has_cores() {
        assert!(Host::read().cores >= 1);
    }
}
