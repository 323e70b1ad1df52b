//! `cnn convert`: from one form of file to the other.

use crate::network::{self, Form, LoadOptions, SaveOptions};
use crate::session::Session;
use crate::table::grouped;
use anyhow::{Result, bail};
use serde::Serialize;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// The network to read, .onnx or .cnn
    pub input: PathBuf,
    /// The file to write; its name's end, .onnx or .cnn, says how
    pub output: PathBuf,
    /// Leave the names of layers out of a .cnn file: a few bytes less for each
    #[arg(long)]
    pub drop_names: bool,
    /// ONNX with 4-bit constants where they suffice; needs opset 21 from whoever reads it
    #[arg(long)]
    pub four_bit: bool,
    /// How to read ONNX
    #[command(flatten)]
    pub load: LoadOptions,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file that was read.
    pub input: PathBuf,
    /// Its form.
    pub input_form: Form,
    /// Its length.
    pub input_bytes: u64,
    /// The file that was written.
    pub output: PathBuf,
    /// Its form.
    pub output_form: Form,
    /// Its length.
    pub output_bytes: u64,
}

/// Reads, writes, and reads back.
///
/// # Errors
/// If the input is not a network, or the output cannot hold it.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let output_form = network::check_writable(&options.output)?;
    let loaded = network::load_finite(&options.input, &options.load, &session.registry)?;
    let save = SaveOptions { names: !options.drop_names, four_bit: options.four_bit };
    let output_bytes = network::save(&loaded.graph, &options.output, save)?;
    let back = network::load(&options.output, &LoadOptions::default(), &session.registry)?;
    if back.graph.input_shape() != loaded.graph.input_shape() {
        bail!("{}: what was written is not what is read back", options.output.display());
    }
    Ok(Report {
        input: options.input.clone(),
        input_form: loaded.form,
        input_bytes: loaded.bytes,
        output: options.output.clone(),
        output_form,
        output_bytes,
    })
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} ({}, {} bytes) -> {} ({}, {} bytes)",
            self.input.display(),
            self.input_form.name(),
            grouped(self.input_bytes),
            self.output.display(),
            self.output_form.name(),
            grouped(self.output_bytes)
        )
    }
}
