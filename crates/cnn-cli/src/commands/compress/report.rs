//! What came of a compression.

use super::Options;
use crate::images::Split;
use crate::latency::Times;
use crate::measure::Scores;
use crate::network::{Form, Loaded, to_bytes};
use crate::session::Session;
use crate::statistics::Paired;
use crate::table::{grouped, table};
use anyhow::Result;
use cnn_core::{Graph, model_file};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

/// An ONNX file so much longer than the native one has lost what was saved.
const LOST: f64 = 1.25;

/// One network and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The file.
    pub file: PathBuf,
    /// Its form.
    pub form: Form,
    /// Its length; of a dry run, the length it would have.
    pub bytes: u64,
    /// Length of the native form, without names.
    pub native_bytes: u64,
    /// Parameters.
    pub params: u64,
    /// Those that are not zero.
    pub nonzeros: u64,
    /// Multiply-adds for an image in 32-bit floats.
    pub macs_float: u64,
    /// In 8-bit integers.
    pub macs_int8: u64,
    /// On single bits.
    pub macs_binary: u64,
    /// On the images that figures are measured on, with the network as read from the file.
    pub scores: Option<Scores>,
    /// Times of single images on the reference executor, with the network as read from the file.
    pub latency: Option<Times>,
}

impl Measured {
    /// Sizes and costs.
    ///
    /// # Errors
    /// If the network cannot be encoded.
    pub fn of(file: &Path, form: Form, bytes: u64, graph: &Graph) -> Result<Measured> {
        let cost = graph.cost()?;
        Ok(Measured {
            file: file.to_path_buf(),
            form,
            bytes,
            native_bytes: model_file::deploy_bytes(graph, false)?.len() as u64,
            params: cost.params,
            nonzeros: cost.nonzeros,
            macs_float: cost.macs.float,
            macs_int8: cost.macs.int8,
            macs_binary: cost.macs.binary,
            scores: None,
            latency: None,
        })
    }

    /// With what was measured.
    pub fn with(self, scores: Scores, latency: Times) -> Measured {
        Measured { scores: Some(scores), latency: Some(latency), ..self }
    }

    fn macs(&self) -> u64 {
        self.macs_float + self.macs_int8 + self.macs_binary
    }
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Methods in order.
    pub steps: Vec<String>,
    /// Images that figures are measured on.
    pub split: Option<Split>,
    /// The network that came in.
    pub before: Measured,
    /// The network that went out.
    pub after: Measured,
    /// Difference in accuracy on the same images.
    pub accuracy: Option<Paired>,
    /// Time before / time after, measured by turns.
    pub speedup: Option<f64>,
    /// Largest difference of outputs between the network that was written and the one read back, relative to
    /// the largest output.
    pub read_back: Option<f64>,
    /// True if nothing was written.
    pub dry_run: bool,
}

impl Report {
    /// Of a rehearsal: sizes that do not depend on the data.
    pub(super) fn dry(options: &Options, form: Form, loaded: &Loaded, tried: &Graph) -> Result<Report> {
        let bytes = to_bytes(tried, form, options.save())?.len() as u64;
        Ok(Report {
            steps: Vec::new(),
            split: None,
            before: Measured::of(&loaded.path, loaded.form, loaded.bytes, &loaded.graph)?,
            after: Measured::of(
                options.output.as_deref().unwrap_or(Path::new("(not written)")),
                form,
                bytes,
                tried,
            )?,
            accuracy: None,
            speedup: None,
            read_back: None,
            dry_run: true,
        })
    }

    /// Says when an ONNX file is much longer than the native form, why, and the bytes of both.
    pub(super) fn warn_of_lost_saving(&self, packed: &Graph, session: &Session) {
        let Measured { form, bytes, native_bytes, .. } = &self.after;
        if *form != Form::Onnx || (*bytes as f64) < LOST * *native_bytes as f64 {
            return;
        }
        let kinds: BTreeSet<&str> =
            packed.nodes().iter().map(|n| n.layer().kind()).filter(|k| k.contains('.')).collect();
        let kinds: Vec<&str> = kinds.into_iter().collect();
        session.warn(format!(
            "ONNX has no standard form for a part of what was saved{}: indices are not entropy-coded, zeros \
                take a place among \
             shared weights, and a byte says where a pruned one is. The ONNX file has {} bytes, the native form {}; \
             `-o NAME.cnn` writes the latter",
            if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) },
            grouped(*bytes),
            grouped(*native_bytes)
        ));
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (a, b) = (&self.before, &self.after);
        let factor = |a: u64, b: u64| match b {
            0 => String::new(),
            b => format!("{:.2} x", a as f64 / b as f64),
        };
        let row = |what: &str, a: u64, b: u64| vec![what.to_string(), grouped(a), grouped(b), factor(a, b)];
        let mut rows = Vec::new();
        if let (Some(x), Some(y), Some(p)) = (&a.scores, &b.scores, &self.accuracy) {
            let split = self.split.map_or("", Split::name);
            let percent = |s: &Scores| format!("{:.2} %", 100.0 * s.top1);
            rows.push(vec![
                format!("top-1, {split}"),
                percent(x),
                percent(y),
                format!("{:+.2} points", p.points),
            ]);
            let (x, y) = (x.correct as u64, y.correct as u64);
            rows.push(vec!["correct images".into(), grouped(x), grouped(y), String::new()]);
        }
        rows.push(row("file, bytes", a.bytes, b.bytes));
        rows.push(row("native form, bytes", a.native_bytes, b.native_bytes));
        rows.push(row("parameters", a.params, b.params));
        rows.push(row("non-zeros", a.nonzeros, b.nonzeros));
        rows.push(row("MACs", a.macs(), b.macs()));
        if b.macs_int8 + b.macs_binary > 0 {
            rows.push(row("  of these in floats", a.macs_float, b.macs_float));
        }
        if let (Some(x), Some(y), Some(speedup)) = (&a.latency, &b.latency, self.speedup) {
            let ms = |t: &Times| format!("{:.3} ms", t.median_ms);
            rows.push(vec!["latency, one image".into(), ms(x), ms(y), format!("{speedup:.2} x")]);
        }
        writeln!(f, "{}", table(&["", ">before", ">after", ">"], &rows))?;
        if let Some(p) = &self.accuracy {
            writeln!(
                f,
                "95 % interval of the difference: {:+.2} to {:+.2} points",
                p.interval[0], p.interval[1]
            )?;
        }
        match self.dry_run {
            true => write!(
                f,
                "dry run: the recipe suits the network. Steps were tried on noise; sizes that depend on the \
                    weights will differ. \
                 Nothing was written"
            ),
            false => write!(f, "{}: {} form, {} bytes", b.file.display(), b.form.name(), grouped(b.bytes)),
        }
    }
}
