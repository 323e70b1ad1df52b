//! All of a run, as text and JSON.

use super::engine::Engine;
use super::measure::Row;
use super::memory;
use super::rounds::Plan;
use super::statistics::geometric_mean;
use super::targets::Target;
use crate::host::Host;
use crate::table::Table;
use serde::Serialize;

/// All of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When.
    pub date: String,
    /// The command line.
    pub command: String,
    /// On what.
    pub host: Host,
    /// Instruction set of our kernels.
    pub isa: String,
    /// The engines and their versions.
    pub engines: Vec<Version>,
    /// Engines that were asked for and could not be started, and why.
    pub missing: Vec<Missing>,
    /// Images in a batch.
    pub batch: usize,
    /// Rounds and turns.
    pub plan: Plan,
    /// Figures of each network and number of threads.
    pub rows: Vec<Row>,
    /// For each number of threads.
    pub means: Vec<Mean>,
    /// Peak memory, with the first number of threads; empty if it was not measured.
    pub memory: Vec<NetworkMemory>,
    /// Threads with which memory was measured.
    pub memory_threads: usize,
    /// The targets that concern what was measured; none for batches other than 1.
    pub targets: Vec<Target>,
    /// How long it took.
    pub seconds: f64,
}

/// An engine that was compared with.
#[derive(Debug, Clone, Serialize)]
pub struct Version {
    /// Which.
    pub engine: Engine,
    /// Its version.
    pub version: String,
}

/// An engine that was not.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// Which.
    pub engine: Engine,
    /// Why.
    pub why: String,
}

/// The geometric mean of the ratios.
#[derive(Debug, Clone, Serialize)]
pub struct Mean {
    /// Threads of each side.
    pub threads: usize,
    /// Ours / best; `None` without any.
    pub ratio: Option<f64>,
    /// Over so many networks.
    pub networks: usize,
}

/// Peak memory of one network.
#[derive(Debug, Clone, Serialize)]
pub struct NetworkMemory {
    /// The network.
    pub network: &'static str,
    /// Ours, and the engines'.
    pub sides: Vec<memory::Row>,
}

impl NetworkMemory {
    /// Of one side.
    pub fn of(&self, side: &str) -> Option<&memory::Row> {
        self.sides.iter().find(|s| s.side == side)
    }
}

/// The means of the rows, for these numbers of threads.
pub fn means(rows: &[Row], threads: &[usize]) -> Vec<Mean> {
    let mean = |&threads: &usize| {
        let of = rows.iter().filter(|r| r.threads == threads);
        let ratios: Vec<f64> = of.filter_map(|r| Some(r.best.as_ref()?.ratio.median)).collect();
        Mean { threads, ratio: geometric_mean(&ratios), networks: ratios.len() }
    };
    threads.iter().map(mean).collect()
}

impl Report {
    /// Everything, for reading.
    pub fn text(&self) -> String {
        let versions: Vec<String> =
            self.engines.iter().map(|v| format!("{} {}", v.engine.title(), v.version)).collect();
        let mut parts = vec![format!(
            "{}; batch {}, {} rounds; {} ({}), {} cores; {}; revision {}; {}; {:.0} s",
            versions.join(", "),
            self.batch,
            self.plan.rounds,
            self.host.cpu,
            self.isa,
            self.host.cores,
            self.host.rustc,
            self.host.revision,
            self.date,
            self.seconds
        )];
        parts.extend(self.missing.iter().map(|m| format!("{} is missing: {}", m.engine.title(), m.why)));
        for mean in &self.means {
            let plural = if mean.threads == 1 { "" } else { "s" };
            parts.push(format!("{} thread{plural}\n\n{}", mean.threads, self.times(mean).text().trim_end()));
        }
        parts.push(
            "ms: medians over the rounds. ours / best: to the faster of ONNX Runtime and OpenVINO, median and quartiles of the rounds' \
             ratios; under 1, ours is faster. error: max |a - b| / max |b| of our logits to ONNX Runtime's, and to our reference \
             executor's. create: compiling our session."
                .to_string(),
        );
        parts.extend(self.restless());
        if !self.memory.is_empty() {
            let plural = if self.memory_threads == 1 { "" } else { "s" };
            parts.push(format!(
                "Peak memory, {} thread{plural}\n\n{}",
                self.memory_threads,
                self.memory_table().text().trim_end()
            ));
            parts.push(
                "MB (10^6 bytes) of VmHWM of a fresh process that loads the ONNX file and runs it. over bare: less that of the process \
                 before loading, with the engine (and Python) in it. running: the same of the runs after the first alone."
                    .to_string(),
            );
        }
        if self.targets.is_empty() {
            parts.push(format!("No targets are set for batches of {}.", self.batch));
        } else {
            parts.push(self.targets.iter().map(Target::text).collect::<Vec<_>>().join("\n"));
        }
        parts.join("\n\n") + "\n"
    }

    fn times(&self, mean: &Mean) -> Table {
        let names: Vec<String> = self.engines.iter().map(|v| format!("{} ms", v.engine.title())).collect();
        let mut header = vec!["network", "ours ms"];
        header.extend(names.iter().map(String::as_str));
        header.extend(["ours / best", "quartiles", "error", "to reference", "create ms"]);
        let mut table = Table::new(&header);
        for row in self.rows.iter().filter(|r| r.threads == mean.threads) {
            if let Some(why) = &row.failed {
                table.note(row.network, &format!("failed: {why}"));
                continue;
            }
            let mut cells = vec![row.network.to_string(), milliseconds(row.ours_ms)];
            let of = |engine| row.peers.iter().find(|p| p.engine == engine);
            cells.extend(self.engines.iter().map(|v| milliseconds(of(v.engine).and_then(|p| p.ms))));
            let ratio = row.best.as_ref().map(|b| b.ratio);
            let error = of(Engine::OnnxRuntime).and_then(|p| p.error);
            cells.extend([
                ratio.map_or("-".into(), |r| format!("{:.2}", r.median)),
                ratio.map_or("-".into(), |r| format!("{:.2} - {:.2}", r.lower, r.upper)),
                error.map_or("-".into(), |e| format!("{e:.1e}")),
                row.reference_error.map_or("-".into(), |e| format!("{e:.1e}")),
                row.create_ms.map_or("-".into(), |ms| format!("{ms:.0}")),
            ]);
            table.row(cells);
            for peer in &row.peers {
                if let Some(why) = &peer.failed {
                    table.note("", &format!("{} failed: {why}", peer.engine.title()));
                }
            }
        }
        let mut cells = vec!["geometric mean".to_string()];
        cells.resize(2 + names.len(), String::new());
        cells.push(mean.ratio.map_or("-".into(), |r| format!("{r:.2}")));
        table.row(cells);
        table
    }

    fn memory_table(&self) -> Table {
        let mut sides = vec![("ours", "ours")];
        sides.extend(self.engines.iter().map(|v| (v.engine.name(), v.engine.title())));
        let mut header = vec!["network".to_string()];
        header.extend(sides.iter().map(|(_, title)| title.to_string()));
        header.extend(sides.iter().map(|_| "over bare".to_string()));
        header.extend(sides.iter().map(|_| "running".to_string()));
        let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for network in &self.memory {
            let peak = |side: &str| network.of(side).and_then(|row| row.peak);
            let mut cells = vec![network.network.to_string()];
            cells.extend(sides.iter().map(|(side, _)| megabytes(peak(side).and_then(|p| p.marks.peak))));
            cells.extend(sides.iter().map(|(side, _)| megabytes(peak(side).and_then(|p| p.increment()))));
            cells.extend(
                sides.iter().map(|(side, _)| megabytes(peak(side).and_then(|p| p.running_increment()))),
            );
            table.row(cells);
            for side in &network.sides {
                if let Some(why) = &side.failed {
                    table.note("", &format!("{} failed: {why}", side.side));
                }
            }
        }
        table
    }

    /// Engines whose threads span on in our turns.
    fn restless(&self) -> Option<String> {
        let peers = self.rows.iter().flat_map(|r| &r.peers);
        let turns: usize = peers.map(|p| p.restless).sum();
        (turns > 0).then(|| {
            format!("After {turns} turns an engine's threads did not come to rest in 3 s: figures near them are doubtful.")
        })
    }
}

/// Three digits.
fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".into(),
        Some(ms) if ms < 1.0 => format!("{ms:.3}"),
        Some(ms) if ms < 10.0 => format!("{ms:.2}"),
        Some(ms) => format!("{ms:.1}"),
    }
}

fn megabytes(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), |b| format!("{:.1}", b as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Best, Peer};
    use super::super::statistics::Quartiles;
    use super::super::targets::targets;
    use super::super::worker::Marks;
    use super::*;
    use anyhow::anyhow;
    use std::time::Duration;

    fn report() -> Report {
        let ratio = Quartiles { lower: 0.45, median: 0.5, upper: 0.55 };
        let peer = |engine, ms| Peer {
            engine,
            failed: None,
            ms: Some(ms),
            load_ms: Some(3.0),
            error: Some(2e-6),
            ratio: Some(ratio),
            restless: 0,
        };
        let row = Row {
            failed: None,
            ours_ms: Some(0.05),
            create_ms: Some(2.0),
            reference_error: Some(1e-6),
            peers: vec![
                peer(Engine::OnnxRuntime, 0.1),
                Peer { failed: Some("fell".into()), ms: None, ..peer(Engine::OpenVino, 0.0) },
            ],
            best: Some(Best { engine: Engine::OnnxRuntime, ratio }),
            ..Row::failed("lenet5", 1, &anyhow!(""))
        };
        let rows = vec![row, Row::failed("vgg16", 1, &anyhow!("too large"))];
        let side = |side, peak| memory::Row { side, peak, failed: None };
        let peak =
            memory::Peak { bare: Some(1_000_000), marks: Marks { peak: Some(3_500_000), running: None } };
        let memory = vec![NetworkMemory {
            network: "lenet5",
            sides: vec![side("ours", Some(peak)), side("onnxruntime", None)],
        }];
        let version = |engine| Version { engine, version: "1.0".into() };
        Report {
            date: "today".into(),
            command: "cargo xtask peers".into(),
            host: Host::read(),
            isa: "avx2".into(),
            engines: vec![version(Engine::OnnxRuntime), version(Engine::OpenVino)],
            missing: vec![Missing { engine: Engine::Tract, why: "not built".into() }],
            batch: 1,
            plan: Plan { rounds: 3, turn: Duration::from_millis(30) },
            means: means(&rows, &[1]),
            targets: targets(&rows, &memory, false),
            rows,
            memory,
            memory_threads: 1,
            seconds: 4.0,
        }
    }

    #[test]
    fn the_text_has_figures_failures_and_verdicts() {
        let text = report().text();
        let line = text.lines().find(|l| l.starts_with("lenet5")).unwrap();
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            cells,
            ["lenet5", "0.050", "0.100", "-", "0.50", "0.45", "-", "0.55", "2.0e-6", "1.0e-6", "2"]
        );
        for part in [
            "tract is missing: not built",
            "OpenVINO failed: fell",
            "failed: too large",
            "geometric mean",
            "not met  geometric mean",
            "vgg16",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let memory = text.lines().filter(|l| l.starts_with("lenet5")).nth(1).unwrap();
        assert_eq!(memory.split_whitespace().take(5).collect::<Vec<_>>(), ["lenet5", "3.5", "-", "-", "2.5"]);
    }

    #[test]
    fn json_has_what_a_script_needs() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["rows"][0]["network"], "lenet5");
        assert_eq!(json["rows"][0]["best"]["ratio"]["median"], 0.5);
        assert_eq!(json["rows"][0]["peers"][0]["engine"], "onnxruntime");
        assert_eq!(json["means"][0]["networks"], 1);
        assert_eq!(json["memory"][0]["sides"][0]["peak"], 3_500_000);
        assert_eq!(json["memory"][0]["sides"][0]["bare"], 1_000_000);
        assert_eq!(json["plan"]["turn_ms"], 30.0);
        assert_eq!(json["targets"][0]["met"], false);
    }

    #[test]
    fn times_have_three_digits() {
        let all: Vec<String> = [0.0691, 4.444, 293.04].map(|ms| milliseconds(Some(ms))).into();
        assert_eq!(all, ["0.069", "4.44", "293.0"]);
    }
}
