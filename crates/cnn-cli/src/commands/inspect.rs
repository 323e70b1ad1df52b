//! `cnn inspect`: a network's layers and what they cost.

use crate::network::{self, Form, LoadOptions};
use crate::session::Session;
use crate::table::{grouped, table};
use anyhow::Result;
use cnn_core::Preprocess;
use cnn_core::model_file::{self, Encoder, Purpose};
use serde::Serialize;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;

/// Options of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// A network, .onnx or .cnn
    pub file: PathBuf,
    /// How to read ONNX
    #[command(flatten)]
    pub load: LoadOptions,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Name of the node.
    pub name: String,
    /// Kind of the layer.
    pub kind: &'static str,
    /// Output for one image.
    pub shape: Vec<usize>,
    /// Trainable numbers.
    pub params: u64,
    /// Those that are not zero.
    pub nonzeros: u64,
    /// Multiply-adds for one image.
    pub macs: u64,
    /// Bytes in the native form.
    pub bytes: u64,
    /// `bytes` as a share of the native file, in `[0, 1]`.
    pub share: f64,
}

/// What the command found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The file.
    pub file: PathBuf,
    /// Its form.
    pub form: Form,
    /// Its length in bytes.
    pub bytes: u64,
    /// Who made it, for ONNX.
    pub about: Option<String>,
    /// Length of the native form in bytes.
    pub native_bytes: u64,
    /// Input of one image.
    pub input: Vec<usize>,
    /// Normalisation that the file records.
    pub preprocess: Option<Preprocess>,
    /// The layers.
    pub layers: Vec<Row>,
    /// Sum of the parameters.
    pub params: u64,
    /// Sum of those that are not zero.
    pub nonzeros: u64,
    /// Sum of the multiply-adds.
    pub macs: u64,
}

/// Looks at a network.
///
/// # Errors
/// If the file is not a network.
pub fn run(options: &Options, session: &Session) -> Result<Report> {
    let loaded = network::load(&options.file, &options.load, &session.registry)?;
    let graph = &loaded.graph;
    if let Some(layer) = network::not_finite(graph) {
        session.warn(format!("the weights of layer `{layer}` are not finite (NaN or infinity)"));
    }
    let native_bytes = model_file::deploy_bytes(graph, false)?.len() as u64;
    let (shapes, costs) = (graph.shapes(1)?, graph.costs()?);
    let layers = graph.nodes().iter().zip(shapes).zip(&costs).map(|((node, shape), cost)| {
        let mut alone = Encoder::new(Purpose::Deploy);
        node.layer().encode(&mut alone).map_err(|e| e.at(&node.name))?;
        let bytes = alone.len() as u64;
        Ok(Row {
            name: node.name.clone(),
            kind: node.layer().kind(),
            shape: shape.get(1..).unwrap_or_default().to_vec(),
            params: cost.params,
            nonzeros: cost.nonzeros,
            macs: cost.macs.total(),
            bytes,
            share: bytes as f64 / native_bytes as f64,
        })
    });
    let layers = layers.collect::<cnn_core::Result<Vec<Row>>>()?;
    Ok(Report {
        file: options.file.clone(),
        form: loaded.form,
        bytes: loaded.bytes,
        about: loaded.about.clone(),
        native_bytes,
        input: graph.input_shape().to_vec(),
        preprocess: graph.preprocess.clone(),
        params: costs.iter().map(|c| c.params).sum(),
        nonzeros: costs.iter().map(|c| c.nonzeros).sum(),
        macs: costs.iter().map(|c| c.macs.total()).sum(),
        layers,
    })
}

fn shape(sides: &[usize]) -> String {
    sides.iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ")
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let about = self.about.as_ref().map_or_else(String::new, |a| format!(", {a}"));
        let bytes = grouped(self.bytes);
        writeln!(f, "{}: {} file of {bytes} bytes{about}", self.file.display(), self.form.name())?;
        writeln!(f, "input: {}", shape(&self.input))?;
        match &self.preprocess {
            Some(p) => writeln!(f, "pixels: {}", crate::images::describe(p))?,
            None => writeln!(f, "pixels: the file does not say how they are normalised")?,
        }
        let head = ["layer", "kind", ">output", ">params", ">non-zeros", ">MACs", ">bytes", ">share"];
        let mut rows: Vec<Vec<String>> = self
            .layers
            .iter()
            .map(|l| {
                vec![
                    l.name.clone(),
                    l.kind.to_string(),
                    shape(&l.shape),
                    grouped(l.params),
                    grouped(l.nonzeros),
                    grouped(l.macs),
                    grouped(l.bytes),
                    format!("{:.1} %", 100.0 * l.share),
                ]
            })
            .collect();
        let listed: u64 = self.layers.iter().map(|l| l.bytes).sum();
        let rest = self.native_bytes.saturating_sub(listed);
        let blank = String::new;
        rows.push(vec![
            "(shared tables, structure)".into(),
            blank(),
            blank(),
            blank(),
            blank(),
            blank(),
            grouped(rest),
            format!("{:.1} %", 100.0 * rest as f64 / self.native_bytes as f64),
        ]);
        rows.push(vec![
            "total".into(),
            blank(),
            blank(),
            grouped(self.params),
            grouped(self.nonzeros),
            grouped(self.macs),
            grouped(self.native_bytes),
            "100 %".into(),
        ]);
        writeln!(f, "{}", table(&head, &rows))?;
        write!(f, "bytes are those of the native form, without names")
    }
}
