//! The command `cnn`.

use clap::Parser;
use cnn_cli::cli::Arguments;
use cnn_cli::session::{Session, Voice};
use cnn_cli::stop::INTERRUPTED;
use cnn_cli::{answer, is_interruption};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let session = Session::new(arguments.voice());
    let done = session
        .stop
        .on_ctrl_c()
        .and_then(|()| arguments.use_threads())
        .and_then(|()| arguments.run(&session));
    let (output, code) = match done {
        Ok(answer) => (answer.output(&session), answer.code),
        Err(error) => {
            let code = if is_interruption(&error) { INTERRUPTED } else { 1 };
            eprintln!("error: {}", answer::error_text(&error));
            match session.voice() {
                Voice::Json => (answer::error_output(&error, &session), code),
                Voice::Human | Voice::Quiet => return code.into(),
            }
        }
    };
    // a reader that went away, such as `head`, is no failure
    match writeln!(std::io::stdout(), "{}", output.trim_end()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => code.into(),
    }
}
