//! What the ratios, the memory and the accuracy shall be, at batch 1.

use super::engine::Engine;
use super::measure::Row;
use super::memory::Peak;
use super::report::NetworkMemory;
use super::statistics::geometric_mean;
use serde::Serialize;

/// Largest geometric mean of ours / best over the networks; in 8-bit integers.
const MEAN: [f64; 2] = [0.90, 1.0];
/// Largest ours / best of a network; in 8-bit integers.
const WORST: [f64; 2] = [1.15, 1.25];
/// Largest ours / best of the networks whose work Winograd's convolution shrinks.
const WINOGRAD: (&[&str], f64) = (&["vgg16", "resnet18"], 0.70);
/// Longest creation of a session, in milliseconds, of this network.
const CREATION: (&str, f64) = ("vgg16", 1000.0);
/// Largest relative error of a logit to the reference executor.
const ERROR: f64 = 1e-3;
/// Largest ours / ONNX Runtime's memory of a network.
const MEMORY: f64 = 1.0;

/// One target.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    /// What it is about.
    pub what: String,
    /// At most.
    pub limit: f64,
    /// What was measured.
    pub value: Option<f64>,
    /// What was not measured although it was asked for, or which network decides.
    pub note: String,
    /// Whether all was measured and none is over the limit.
    pub met: bool,
}

/// The targets that concern what was asked for.
pub fn targets(rows: &[Row], memory: &[NetworkMemory], int8: bool) -> Vec<Target> {
    let mut targets = Vec::new();
    let [mean_limit, worst_limit] = [MEAN, WORST].map(|limits| limits[usize::from(int8)]);
    let mut numbers: Vec<usize> = rows.iter().map(|r| r.threads).collect();
    numbers.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    for threads in &numbers {
        let of: Vec<&Row> = rows.iter().filter(|r| r.threads == *threads).collect();
        let with = format!("with {threads} thread{}", if *threads == 1 { "" } else { "s" });
        let ratio = |r: &&Row| (r.network, r.best.as_ref().map(|b| b.ratio.median));
        let ratios: Vec<_> = of.iter().map(ratio).collect();
        let mut mean = Target::most(format!("geometric mean of ours / best {with}"), mean_limit, &ratios);
        mean.value = geometric_mean(&ratios.iter().filter_map(|r| r.1).collect::<Vec<_>>());
        mean.met = mean.value.is_some_and(|v| v <= mean_limit) && ratios.iter().all(|r| r.1.is_some());
        if mean.value.is_some() && ratios.iter().all(|r| r.1.is_some()) {
            mean.note = format!("over {}", count(ratios.len(), "network"));
        }
        targets.push(mean);
        targets.push(Target::most(format!("ours / best of each network {with}"), worst_limit, &ratios));
        for name in WINOGRAD.0.iter().filter(|_| !int8) {
            let one: Vec<_> = ratios.iter().filter(|r| r.0 == *name).copied().collect();
            if !one.is_empty() {
                targets.push(Target::most(format!("ours / best of {name} {with}"), WINOGRAD.1, &one));
            }
        }
    }
    let created: Vec<_> =
        rows.iter().filter(|r| r.network == CREATION.0).map(|r| (r.network, r.create_ms)).collect();
    if !created.is_empty() {
        targets.push(Target::most(format!("ms to create a session of {}", CREATION.0), CREATION.1, &created));
    }
    let errors: Vec<_> = rows.iter().map(|r| (r.network, r.reference_error.map(f64::from))).collect();
    targets.push(Target::most("relative error of a logit to the reference executor".into(), ERROR, &errors));
    if numbers.len() > 1 {
        let later = rows.iter().filter(|r| r.same_bits.is_some() || r.failed.is_some());
        let differ: Vec<_> =
            later.map(|r| (r.network, r.same_bits.map(|s| f64::from(u8::from(!s))))).collect();
        targets.push(Target::most("networks whose bits depend on the threads".into(), 0.0, &differ));
    }
    targets.extend(memory_targets(memory));
    targets
}

fn memory_targets(memory: &[NetworkMemory]) -> Vec<Target> {
    type Increment = fn(&Peak) -> Option<u64>;
    let kinds: [(&str, Increment); 2] =
        [("loading and running", Peak::increment), ("running", Peak::running_increment)];
    let with_onnx_runtime = memory.iter().any(|m| m.of(Engine::OnnxRuntime.name()).is_some());
    if !with_onnx_runtime {
        return Vec::new();
    }
    let target = |(what, increment): (&str, Increment)| {
        let ratio = |m: &NetworkMemory| {
            let of = |side| increment(m.of(side)?.peak.as_ref()?);
            Some(of("ours")? as f64 / of(Engine::OnnxRuntime.name())?.max(1) as f64)
        };
        let ratios: Vec<_> = memory.iter().map(|m| (m.network, ratio(m))).collect();
        Target::most(format!("peak memory of {what}, ours / ONNX Runtime"), MEMORY, &ratios)
    };
    kinds.map(target).into()
}

impl Target {
    /// The largest value decides; what is missing is noted.
    fn most(what: String, limit: f64, values: &[(&str, Option<f64>)]) -> Target {
        let measured = values.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
        // NaN counts as the largest
        let largest = measured.max_by(|a, b| a.1.total_cmp(&b.1));
        let missing: Vec<&str> = values.iter().filter(|(_, v)| v.is_none()).map(|(name, _)| *name).collect();
        let note = match largest {
            _ if !missing.is_empty() => format!("not measured: {}", missing.join(", ")),
            Some((name, _)) => name.to_string(),
            None => "nothing measured".to_string(),
        };
        let value = largest.map(|(_, value)| value);
        let met = missing.is_empty() && value.is_some_and(|v| v <= limit);
        Target { what, limit, value, note, met }
    }

    /// One line.
    pub fn text(&self) -> String {
        let verdict = if self.met { "met" } else { "not met" };
        let number = |v: f64| if v != 0.0 && v.abs() < 0.01 { format!("{v:.1e}") } else { format!("{v:.2}") };
        let value = self.value.map_or("-".into(), number);
        format!("{verdict:<7}  {}: {value}, at most {} ({})", self.what, number(self.limit), self.note)
    }
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::measure::Best;
    use super::super::memory;
    use super::super::statistics::Quartiles;
    use super::super::worker::Marks;
    use super::*;
    use anyhow::anyhow;

    fn row(network: &'static str, threads: usize, ratio: f64) -> Row {
        let ratio = Quartiles { lower: ratio, median: ratio, upper: ratio };
        Row {
            failed: None,
            create_ms: Some(900.0),
            reference_error: Some(1e-4),
            same_bits: (threads > 1).then_some(true),
            best: Some(Best { engine: Engine::OpenVino, ratio }),
            ..Row::failed(network, threads, &anyhow!(""))
        }
    }

    fn find<'a>(targets: &'a [Target], part: &str) -> &'a Target {
        targets.iter().find(|t| t.what.contains(part)).unwrap()
    }

    #[test]
    fn a_network_that_is_too_slow_is_named() {
        let rows = [row("lenet5", 1, 1.2), row("vgg16", 1, 0.6)];
        let targets = targets(&rows, &[], false);
        assert!(find(&targets, "geometric mean").met);
        let worst = find(&targets, "each network");
        assert!(!worst.met && worst.value == Some(1.2) && worst.note == "lenet5");
        assert!(find(&targets, "of vgg16 with 1 thread").met && find(&targets, "create a session").met);
        assert!(!targets.iter().any(|t| t.what.contains("resnet18") || t.what.contains("bits")));
        // 8-bit networks have limits of their own
        let int8 = super::targets(&rows, &[], true);
        assert!(find(&int8, "each network").met && !int8.iter().any(|t| t.what.contains("of vgg16 with")));
        assert!(worst.text().starts_with("not met") && worst.text().contains("1.20, at most 1.15 (lenet5)"));
    }

    #[test]
    fn what_was_asked_for_and_not_measured_is_not_met() {
        let rows = [row("lenet5", 2, 0.5), Row::failed("resnet18", 2, &anyhow!("no"))];
        let targets = targets(&rows, &[], false);
        let mean = find(&targets, "geometric mean");
        assert!(!mean.met && mean.value == Some(0.5) && mean.note.contains("resnet18"), "{mean:?}");
        assert!(!find(&targets, "of resnet18").met && !find(&targets, "reference").met);
    }

    #[test]
    fn bits_that_depend_on_threads_are_found() {
        let mut rows = [row("lenet5", 1, 0.5), row("lenet5", 2, 0.5)];
        assert!(find(&targets(&rows, &[], false), "bits").met);
        rows[1].same_bits = Some(false);
        assert!(!find(&targets(&rows, &[], false), "bits").met);
    }

    #[test]
    fn memory_is_compared_over_the_bare_process() {
        let side = |side, bare, peak| memory::Row {
            side,
            peak: Some(Peak { bare: Some(bare), marks: Marks { peak: Some(peak), running: Some(bare) } }),
            failed: None,
        };
        let of = |ours| NetworkMemory {
            network: "lenet5",
            sides: vec![side("ours", 10, ours), side("onnxruntime", 50, 70)],
        };
        assert!(find(&targets(&[], &[of(30)], false), "loading and running").met);
        let more = targets(&[], &[of(40)], false);
        assert!(!find(&more, "loading and running").met && find(&more, "of running").met);
        assert!(memory_targets(&[]).is_empty());
    }
}
