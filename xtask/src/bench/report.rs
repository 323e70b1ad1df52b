//! The report of a benchmark: `report.json` (its schema is in REPORT.md), `report.md`, and the table on the terminal.

use super::latency::{Latency, Rounds};
use super::statistics::{Paired, deviation, mean};
use crate::host::Host;
use crate::table::{Table, grouped};
use cnn_core::session::Profile;
use cnn_core::train::TrainSettings;
use cnn_core::{Config, Cost};
use serde::Serialize;

/// Version of the schema; it grows when a reader of the old one would be misled.
const SCHEMA: u32 = 1;

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Start of the run, UTC.
    pub date: String,
    /// The command line.
    pub command: String,
    /// Where it ran.
    pub host: Host,
    /// What it ran on.
    pub data: Data,
    /// How.
    pub settings: Settings,
    /// One row for each seed and method, in order.
    pub rows: Vec<Row>,
    /// Over the seeds; empty for a single seed.
    pub summary: Vec<Summary>,
    /// Seconds in all.
    pub seconds: f64,
}

/// The images.
#[derive(Debug, Clone, Serialize)]
pub struct Data {
    /// Where they are from.
    pub source: String,
    /// Images to train on.
    pub train: usize,
    /// Images for decisions.
    pub validation: usize,
    /// Images that the figures are measured on.
    pub test: usize,
}

/// What holds for all rows.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Name of the network.
    pub network: &'static str,
    /// Bytes of its parameters in 32-bit floating point: what ratios are taken of.
    pub original_bytes: u64,
    /// A smoke run: figures are not to be quoted.
    pub smoke: bool,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Threads.
    pub threads: usize,
    /// How the baseline is trained (for the first seed).
    pub baseline: TrainSettings,
    /// What methods are lent to fine-tune with (for the first seed).
    pub fine_tune: TrainSettings,
    /// How training images are changed at random, for the baseline and for all methods.
    pub augment: String,
    /// How latency is measured.
    pub latency: Rounds,
}

/// A method with one seed.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Name of the row.
    pub name: String,
    /// Family of methods.
    pub family: &'static str,
    /// The methods behind it, in order.
    pub method: String,
    /// Their configuration in force.
    pub config: Config,
    /// Seed.
    pub seed: u64,
    /// Seconds of training, `apply` and `pack`.
    pub seconds: f64,
    /// What was measured on the file that was written and read back, or why there is nothing.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Row {
    /// The figures, if there are any.
    pub fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Failed(_) => None,
        }
    }
}

/// What came of a row.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Measured(Box<Measured>),
    /// It failed, and why.
    Failed(String),
}

/// Figures of a deployed file.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Share of test images whose first choice is right, in per cent.
    pub top1: f64,
    /// Against the baseline on the same images.
    pub difference: Paired,
    /// Name of the file beside the report.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Original bytes / file bytes.
    pub ratio: f64,
    /// Numbers of the deployed network.
    pub params: u64,
    /// Those that are not zero.
    pub nonzeros: u64,
    /// Multiply-adds for one image.
    pub macs: MacsOut,
    /// Time for one image.
    pub latency: Latency,
    /// Where that time goes, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
}

/// Multiply-adds by arithmetic.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MacsOut {
    /// All.
    pub total: u64,
    /// In 32-bit floating point.
    pub float: u64,
    /// In 8-bit integers.
    pub int8: u64,
    /// On single bits.
    pub binary: u64,
}

impl From<Cost> for MacsOut {
    fn from(cost: Cost) -> MacsOut {
        let macs = cost.macs;
        MacsOut { total: macs.total(), float: macs.float, int8: macs.int8, binary: macs.binary }
    }
}

/// A row over all seeds for which it was measured: means and sample standard deviations.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the row.
    pub name: String,
    /// Seeds that were measured.
    pub seeds: usize,
    /// Seeds that failed.
    pub failed: usize,
    /// Mean and deviation of top-1 in per cent.
    pub top1: [f64; 2],
    /// Mean and deviation of the difference to the same seed's baseline, in points.
    pub points: [f64; 2],
    /// Mean and deviation of the file's bytes.
    pub bytes: [f64; 2],
    /// Mean and deviation of the ratio.
    pub ratio: [f64; 2],
    /// Mean and deviation of the median latency in milliseconds.
    pub latency_ms: [f64; 2],
    /// Mean and deviation of the speed-up.
    pub speedup: [f64; 2],
}

impl Report {
    /// A report without rows.
    pub fn new(host: Host, data: Data, settings: Settings) -> Report {
        let (date, command) = (crate::host::now(), crate::host::command_line());
        Report {
            schema: SCHEMA,
            date,
            command,
            host,
            data,
            settings,
            rows: Vec::new(),
            summary: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Fills in the seconds and, for several seeds, the summary.
    pub fn finish(&mut self, seconds: f64) {
        self.seconds = seconds;
        if self.settings.seeds.len() > 1 {
            let first = self.settings.seeds[0];
            let names = self.rows.iter().filter(|r| r.seed == first).map(|r| r.name.as_str());
            self.summary = names.map(|name| summary(name, &self.rows)).collect();
        }
    }

    /// True if a row failed.
    pub fn failed(&self) -> bool {
        self.rows.iter().any(|r| matches!(r.outcome, Outcome::Failed(_)))
    }

    /// One table row for each row of the report.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&[
            "method",
            "seed",
            "top-1 %",
            "points",
            "95 % interval",
            "bytes",
            "ratio",
            "params",
            "non-zeros",
            "MACs",
            "of them int8",
            "ms",
            "p90 ms",
            "speed-up",
            "took s",
        ]);
        for row in &self.rows {
            match &row.outcome {
                Outcome::Failed(why) => table.note(&row.name, &format!("seed {}: failed: {why}", row.seed)),
                Outcome::Measured(m) => table.row(vec![
                    row.name.to_string(),
                    row.seed.to_string(),
                    format!("{:.2}", m.top1),
                    format!("{:+.2}", m.difference.points),
                    format!("{:+.2} .. {:+.2}", m.difference.interval[0], m.difference.interval[1]),
                    grouped(m.bytes),
                    format!("{:.1}", m.ratio),
                    grouped(m.params),
                    grouped(m.nonzeros),
                    grouped(m.macs.total),
                    grouped(m.macs.int8),
                    format!("{:.3}", m.latency.median_ms),
                    format!("{:.3}", m.latency.p90_ms),
                    format!("{:.2}", m.latency.speedup),
                    format!("{:.1}", row.seconds),
                ]),
            }
        }
        table
    }

    /// The profiles of the first seed's rows, by name.
    pub fn profiles(&self) -> impl Iterator<Item = (&str, &Profile)> {
        let first = self.rows.iter().filter(|r| r.seed == self.settings.seeds[0]);
        first.filter_map(|r| Some((r.name.as_str(), r.measured()?.profile.as_ref()?)))
    }

    /// Means and deviations over the seeds.
    pub fn summary_table(&self) -> Table {
        let mut table =
            Table::new(&["method", "seeds", "top-1 %", "points", "bytes", "ratio", "ms", "speed-up"]);
        for s in &self.summary {
            if s.seeds == 0 {
                table.note(&s.name, "failed for every seed");
                continue;
            }
            let pm = |[m, d]: [f64; 2], digits: usize| format!("{m:.digits$} ± {d:.digits$}");
            table.row(vec![
                s.name.to_string(),
                s.seeds.to_string(),
                pm(s.top1, 2),
                pm(s.points, 2),
                pm(s.bytes, 0),
                pm(s.ratio, 1),
                pm(s.latency_ms, 3),
                pm(s.speedup, 2),
            ]);
        }
        table
    }

    /// What the figures mean and where they are from, a line each.
    pub fn notes(&self) -> Vec<String> {
        let (d, s, h) = (&self.data, &self.settings, &self.host);
        let mut notes = vec![
            format!(
                "{}; {} images to train on ({}), {} for decisions, {} to test on; the last epoch counts.",
                d.source, d.train, s.augment, d.validation, d.test
            ),
            format!(
                "{}, {} threads of {} cores; {}; {}; revision {}; {}.",
                h.cpu, s.threads, h.cores, h.os, h.rustc, h.revision, self.date
            ),
            format!(
                "points: difference to the baseline d = 100 (c - b) / n on the same n test images (b: only the baseline is \
                 right, c: only the method), interval d +- 1.96 * 100 sqrt(b + c - (b - c)^2 / n) / n; it covers the \
                 choice of test images, not the seed."
            ),
            format!("bytes: length of the deployable file; ratio: {} / bytes.", grouped(s.original_bytes)),
            format!(
                "ms: one image at a time in a session on all threads, {} rounds of {} test images, by \
                 turns with the baseline; speed-up: median of the rounds' ratios. The baseline's own row is measured against itself.",
                s.latency.rounds, s.latency.images
            ),
        ];
        if s.smoke {
            notes.push("A smoke run: too little training for figures to be quoted.".into());
        }
        notes
    }

    /// `report.md`.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {} compressed\n\n`{}`\n\n", self.settings.network, self.command);
        text += &self.table().markdown();
        if !self.summary.is_empty() {
            text += "\nMean ± sample standard deviation over the seeds:\n\n";
            text += &self.summary_table().markdown();
        }
        for (name, profile) in self.profiles() {
            text += &format!("\n{name}, each kernel alone on one thread:\n\n```text\n{profile}\n```\n");
        }
        text += "\n![Accuracy against bytes](pareto-bytes.svg)\n![Accuracy against latency](pareto-latency.svg)\n\n";
        text += &self.notes().iter().map(|n| format!("- {n}\n")).collect::<String>();
        let baseline = serde_json::to_string(&self.settings.baseline).unwrap_or_default();
        text +=
            &format!("- Baseline: `{baseline}`.\n- {:.0} s in all.\n\n## Configurations\n\n", self.seconds);
        for row in self.rows.iter().filter(|r| r.seed == self.settings.seeds[0]) {
            text += &format!("- {}: {} `{}`\n", row.name, row.method, row.config);
        }
        text
    }
}

fn summary(name: &str, rows: &[Row]) -> Summary {
    let of_name = || rows.iter().filter(|r| r.name == name);
    let measured: Vec<&Measured> = of_name().filter_map(Row::measured).collect();
    let over = |value: fn(&Measured) -> f64| {
        let values: Vec<f64> = measured.iter().map(|m| value(m)).collect();
        [mean(&values), deviation(&values)]
    };
    Summary {
        name: name.to_string(),
        seeds: measured.len(),
        failed: of_name().count() - measured.len(),
        top1: over(|m| m.top1),
        points: over(|m| m.difference.points),
        bytes: over(|m| m.bytes as f64),
        ratio: over(|m| m.ratio),
        latency_ms: over(|m| m.latency.median_ms),
        speedup: over(|m| m.latency.speedup),
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::statistics::paired;
    use super::*;
    use serde_json::json;

    fn row(name: &'static str, seed: u64, top1: f64) -> Row {
        let latency = Latency {
            executor: "session",
            median_ms: 0.5,
            p90_ms: 0.6,
            baseline_median_ms: 1.0,
            speedup: 2.0,
        };
        let measured = Measured {
            top1,
            difference: paired(&[true, true], &[true, false]),
            file: format!("{name}.cnn"),
            bytes: 1000,
            ratio: 1724.32,
            params: 10,
            nonzeros: 5,
            macs: Cost::default().into(),
            latency,
            profile: Some(Profile { rows: Vec::new(), peak_gflops: 100.0 }),
        };
        let outcome = Outcome::Measured(Box::new(measured));
        Row {
            name: name.to_string(),
            family: "prune",
            method: "m".into(),
            config: json!({"a": 1}),
            seed,
            seconds: 1.5,
            outcome,
        }
    }

    fn report(seeds: Vec<u64>, rows: Vec<Row>) -> Report {
        let train = TrainSettings::default();
        let settings = Settings {
            network: "lenet5",
            original_bytes: 1_724_320,
            smoke: true,
            seeds,
            threads: 2,
            baseline: train.clone(),
            fine_tune: train,
            augment: "as they are".into(),
            latency: Rounds { rounds: 1, images: 1 },
        };
        let data = Data { source: "digits".into(), train: 1, validation: 1, test: 2 };
        let mut report = Report::new(Host::read(), data, settings);
        report.rows = rows;
        report.finish(12.0);
        report
    }

    #[test]
    fn a_failed_row_says_why_and_is_remembered() {
        let mut bad = row("b", 0, 0.0);
        bad.outcome = Outcome::Failed("no such ratio".into());
        let report = report(vec![0], vec![row("a", 0, 98.0), bad]);
        assert!(report.failed());
        let text = report.table().text();
        assert!(text.contains("failed: no such ratio") && text.contains("98.00"), "{text}");
        let value = serde_json::to_value(&report).unwrap();
        assert_eq!(value["rows"][1]["failed"], "no such ratio");
        assert_eq!(value["rows"][0]["measured"]["bytes"], 1000);
        assert!(report.summary.is_empty());
    }

    #[test]
    fn several_seeds_are_summed_up() {
        let mut bad = row("a", 2, 0.0);
        bad.outcome = Outcome::Failed("x".into());
        let report = report(vec![0, 1, 2], vec![row("a", 0, 97.0), row("a", 1, 99.0), bad]);
        let s = &report.summary[0];
        assert_eq!((s.seeds, s.failed, s.top1[0]), (2, 1, 98.0));
        assert!((s.top1[1] - 2f64.sqrt()).abs() < 1e-12);
        assert!(report.markdown().contains("98.00 ± 1.41"));
        assert_eq!(report.markdown().matches("% peak").count(), 1, "of the first seed alone");
    }
}
