//! What the system says of this process.

use std::time::{Duration, Instant};

/// The threads rest when they use less than [`RESTING`] of a core in so long; the system counts in ticks that may be as long as this.
const WINDOW: Duration = Duration::from_millis(20);
/// Of a core.
const RESTING: f64 = 0.05;
/// How long to wait at most.
const AT_MOST: Duration = Duration::from_secs(3);

/// `VmHWM`, the largest resident size so far, in bytes.
pub fn high_water() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Sets the mark back to what is resident now; false where that is not allowed.
pub fn reset_high_water() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Waits until the threads of this process rest, and returns how long that took; `None` if they do not, or if
/// the system does not tell.
pub fn settle() -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < AT_MOST {
        let used = cpu_time()?;
        std::thread::sleep(WINDOW);
        if cpu_time()?.saturating_sub(used) < WINDOW.mul_f64(RESTING) {
            return Some(start.elapsed());
        }
    }
    None
}

/// Time on a processor of all threads: the first column of their `schedstat`, in nanoseconds.
fn cpu_time() -> Option<Duration> {
    let mut total = 0;
    for thread in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        total += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(total))
}
