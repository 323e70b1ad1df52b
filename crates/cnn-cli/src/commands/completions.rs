//! `cnn completions`: a script that makes a shell complete the command's arguments.

use clap_complete::Shell;

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The shell
    pub shell: Shell,
}

/// The script.
pub fn run(options: &Options, mut command: clap::Command) -> String {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, "cnn", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}
