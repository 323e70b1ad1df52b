//! Linux's high-water mark of this process's resident size.

/// The largest resident size so far, in bytes; `None` where the system does not tell.
pub fn high_water() -> Option<u64> {
    mark(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Sets the mark back to what is resident now; false where that is not allowed.
pub fn reset_high_water() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

fn mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_read() {
        assert_eq!(mark("Name:\tx\nVmHWM:\t    1200 kB\nVmRSS:\t 9 kB\n"), Some(1200 * 1024));
        assert_eq!(mark("VmRSS:\t 9 kB\n"), None);
    }
}
