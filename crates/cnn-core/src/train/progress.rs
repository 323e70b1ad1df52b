//! Progress with rate and remaining time, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where training shows how far it is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    visible: bool,
}

impl Progress {
    /// Shows nothing.
    pub fn quiet() -> Progress {
        Progress { visible: false }
    }

    /// Shows bars on standard error, if it is a terminal.
    pub fn terminal() -> Progress {
        Progress { visible: true }
    }

    /// A bar over `len` images.
    pub fn bar(&self, len: u64, what: &str) -> ProgressBar {
        let target = if self.visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} ETA {eta}");
        let bar = ProgressBar::with_draw_target(Some(len), target).with_message(what.to_string());
        style.map(|s| bar.clone().with_style(s)).unwrap_or(bar)
    }
}
