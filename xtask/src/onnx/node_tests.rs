//! The standard's own tests of single operators, with its inputs and outputs.
//!
//! Each test goes two roads. As a **network**: the first float input is the images, all other inputs are
//! bound as constants, and the imported graph infers. As **constants**: all inputs are bound, and the
//! importer folds the model to its outputs. A test passes if at least one road is supported and every
//! supported road gives the standard's answer; it is skipped, with the importer's reason, if none is
//! supported. `node_tests.txt` lists the roads that must pass, so that nothing becomes skipped unseen.

use super::python;
use crate::table::Table;
use anyhow::{Context, Result, bail};
use cnn_onnx::{ElementKind, ImportOptions, Value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const EXTRACT: &str = include_str!("../../scripts/onnx_node_tests.py");
const MUST_PASS: &str = include_str!("node_tests.txt");

/// What was extracted.
#[derive(Debug, Deserialize)]
struct Index {
    onnx: String,
    tests: Vec<Test>,
    /// Tests with other operators.
    others: usize,
    /// Tests of sequences and optionals.
    not_tensors: usize,
}

#[derive(Debug, Deserialize)]
struct Test {
    name: String,
    operators: Vec<String>,
    nodes: usize,
    rtol: f64,
    atol: f64,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

/// An input or output of a test.
#[derive(Debug, Deserialize)]
struct Tensor {
    name: String,
    file: String,
    r#type: String,
    shape: Vec<usize>,
}

/// Where a road led.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Road {
    /// To the standard's answer.
    Right,
    /// To another answer, or into a panic.
    Wrong(String),
    /// It is not supported.
    Unsupported(String),
}

/// What became of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// At least one road is supported, and all supported ones are right.
    Passed,
    /// A road is wrong.
    Failed,
    /// No road is supported.
    Skipped,
}

/// One test, done.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Its name in the standard.
    pub name: String,
    /// The operator, or `"several"`.
    pub operator: String,
    /// The first float input as images.
    pub network: Road,
    /// All inputs as constants.
    pub constants: Road,
    /// What follows.
    pub outcome: Outcome,
}

/// All tests, done.
#[derive(Debug, Serialize)]
pub struct NodeTests {
    /// Version of the `onnx` package that they are from.
    pub onnx: String,
    /// Tests of other operators, which do not concern us.
    pub others: usize,
    /// Tests of claimed operators with sequences or optionals.
    pub not_tensors: usize,
    /// Each test.
    pub tests: Vec<Done>,
    /// Roads that must pass and do not.
    pub lost: Vec<String>,
}

/// Extracts the tests of all operators that become layers or fold, and runs them. With `bless`, writes the
/// list of those that must pass.
///
/// # Errors
/// If they cannot be extracted or read.
pub fn run(python: &Path, directory: &Path, bless: bool) -> Result<NodeTests> {
    let directory = directory.join("node-tests");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let claimed = [cnn_onnx::supported_operators(), cnn_onnx::folded_operators()].concat();
    python::script(python, EXTRACT, &[&directory.display().to_string(), &claimed.join(",")])?;
    let index = directory.join("index.json");
    let index = std::fs::read_to_string(&index).with_context(|| index.display().to_string())?;
    let index: Index = serde_json::from_str(&index)?;
    let tests = index.tests.iter().map(|t| one(t, &directory.join(&t.name))).collect::<Result<Vec<_>>>()?;
    let mut done = NodeTests {
        onnx: index.onnx,
        others: index.others,
        not_tensors: index.not_tensors,
        tests,
        lost: Vec::new(),
    };
    if bless {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/onnx/node_tests.txt");
        std::fs::write(&path, list(&done)).with_context(|| path.display().to_string())?;
        println!("wrote {}", path.display());
    } else {
        done.lost = lost(MUST_PASS, &done);
    }
    Ok(done)
}

fn one(test: &Test, directory: &Path) -> Result<Done> {
    let file = |name: &str| -> Result<(PathBuf, Vec<u8>)> {
        let path = directory.join(name);
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        Ok((path, bytes))
    };
    let (_, model) = file("model.onnx")?;
    let mut files = BTreeMap::new();
    for tensor in test.inputs.iter().chain(&test.outputs) {
        files.insert(tensor.file.clone(), file(&tensor.file)?.1);
    }
    let network = guarded(|| as_network(test, &model, &files));
    let constants = guarded(|| as_constants(test, &model, &files));
    let roads = [&network, &constants];
    let outcome = if roads.iter().any(|r| matches!(r, Road::Wrong(_))) {
        Outcome::Failed
    } else if roads.contains(&&Road::Right) {
        Outcome::Passed
    } else {
        Outcome::Skipped
    };
    let operator = match test.operators.as_slice() {
        [one] if test.nodes == 1 => one.clone(),
        _ => "several".to_string(),
    };
    Ok(Done { name: test.name.clone(), operator, network, constants, outcome })
}

/// A panic is a wrong answer.
fn guarded(road: impl FnOnce() -> Road) -> Road {
    catch_unwind(AssertUnwindSafe(road)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Road::Wrong(format!("panicked: {}", text.unwrap_or("without a message")))
    })
}

/// Begins the reason where a test is no network at all.
const NO_NETWORK: &str = "not a network:";

/// The inputs of a test by name, or why they cannot be read.
fn inputs(test: &Test, files: &Files) -> Result<BTreeMap<String, Value>, String> {
    let read = |t: &Tensor| match value(&files[&t.file]) {
        Ok(value) => Ok((t.name.clone(), value)),
        Err(_) => Err(element_type(t)),
    };
    test.inputs.iter().map(read).collect()
}

fn element_type(tensor: &Tensor) -> String {
    format!("element type {}", tensor.r#type)
}

type Files = BTreeMap<String, Vec<u8>>;

fn as_network(test: &Test, model: &[u8], files: &Files) -> Road {
    let Some(images) = test.inputs.iter().position(|t| t.r#type == "float" && t.shape.len() >= 2) else {
        return Road::Unsupported(format!("{NO_NETWORK} no float input with a batch and channels"));
    };
    let mut constants = match inputs(test, files) {
        Ok(constants) => constants,
        Err(why) => return Road::Unsupported(why),
    };
    let Some(input) = constants.remove(&test.inputs[images].name) else {
        return Road::Wrong("two inputs have the same name".to_string());
    };
    let input = input.to_f32();
    // a graph has one output; each of the test's is imported for itself
    for output in &test.outputs {
        if output.r#type != "float" {
            return Road::Unsupported(format!("{NO_NETWORK} an output of type {}", output.r#type));
        }
        let options = ImportOptions {
            constants: constants.clone(),
            output: Some(output.name.clone()),
            ..ImportOptions::default()
        };
        let graph = match cnn_onnx::from_bytes(model, None, &options) {
            Ok(imported) => imported.graph,
            Err(error) => return Road::Unsupported(reason(&error)),
        };
        let answer = match graph.infer(&input) {
            Ok(answer) => answer,
            // what was accepted must run
            Err(error) => return Road::Wrong(format!("infer: {error}")),
        };
        if let Err(why) = same(test, output, &Value::from_tensor(&answer), files) {
            return Road::Wrong(format!("{why:#}"));
        }
    }
    Road::Right
}

fn as_constants(test: &Test, model: &[u8], files: &Files) -> Road {
    let constants = match inputs(test, files) {
        Ok(constants) => constants,
        Err(why) => return Road::Unsupported(why),
    };
    if let Some(unreadable) = test.outputs.iter().find(|t| value(&files[&t.file]).is_err()) {
        return Road::Unsupported(element_type(unreadable)); // nothing to compare with
    }
    let answers = match cnn_onnx::evaluate(model, &constants) {
        Ok(answers) => answers,
        Err(error) => return Road::Unsupported(reason(&error)),
    };
    if answers.len() != test.outputs.len() {
        return Road::Wrong(format!("{} outputs and not {}", answers.len(), test.outputs.len()));
    }
    match test.outputs.iter().zip(&answers).try_for_each(|(output, given)| same(test, output, given, files)) {
        Ok(()) => Road::Right,
        Err(why) => Road::Wrong(format!("{why:#}")),
    }
}

fn value(bytes: &[u8]) -> Result<Value> {
    Ok(Value::from_tensor_bytes(bytes)?)
}

/// Fails with the first element that is not the standard's.
fn same(test: &Test, output: &Tensor, given: &Value, files: &Files) -> Result<()> {
    use ElementKind::{BFloat16, Double, Float, Float16};
    let expected = value(&files[&output.file])?;
    let name = &output.name;
    if given.kind() != expected.kind() {
        bail!("{name} has type {} and not {}", given.kind(), expected.kind());
    }
    if given.shape() != expected.shape() {
        bail!("{name} has shape {:?} and not {:?}", given.shape(), expected.shape());
    }
    if given == &expected {
        return Ok(());
    }
    // as the standard's runner: two steps of a bfloat16, and integers exactly
    let (rtol, atol) = match given.kind() {
        BFloat16 => (test.rtol.max(1.0 / 64.0), test.atol),
        Float | Float16 | Double => (test.rtol, test.atol),
        _ => (0.0, 0.0),
    };
    let (a, b) = (given.to_f32(), expected.to_f32());
    let mut pairs = a.iter().zip(&b).map(|(&a, &b)| (f64::from(a), f64::from(b))).enumerate();
    match pairs.find(|(_, (a, b))| !close(*a, *b, rtol, atol)) {
        Some((at, (a, b))) => bail!("{name}[{at}] is {a} and not {b} (shape {:?})", given.shape()),
        // integers beyond what a float tells apart
        None if rtol == 0.0 => bail!("{name} has other large integers"),
        None => Ok(()),
    }
}

/// As `numpy.testing.assert_allclose`.
fn close(a: f64, b: f64, rtol: f64, atol: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (b.is_finite() && (a - b).abs() <= atol + rtol * b.abs())
}

/// An import error without the names of the test, so that equal reasons are counted together.
fn reason(error: &cnn_onnx::Error) -> String {
    if let cnn_onnx::Error::Unsupported(unsupported) = error {
        let each = unsupported.items.iter().map(|i| match &i.why {
            None => i.operator.clone(),
            Some(why) => format!("{}: {why}", i.operator),
        });
        let mut each: Vec<String> = each.collect();
        each.dedup();
        return each.join("; ");
    }
    // quoted names and numbers differ from test to test
    let text = error.to_string();
    let unquoted: Vec<&str> =
        text.split('`').enumerate().map(|(i, s)| if i % 2 == 0 { s } else { "_" }).collect();
    unquoted.concat().lines().next().unwrap_or_default().to_string()
}

/// The roads that pass, a test a line.
fn list(done: &NodeTests) -> String {
    let mut lines = vec![format!(
        "# Roads of the standard's node tests that must pass (onnx {}); written by `cargo xtask onnx --only nodes --bless`.",
        done.onnx
    )];
    for test in &done.tests {
        let right = roads(test).filter(|(_, road)| **road == Road::Right).map(|(name, _)| name);
        let right: Vec<&str> = right.collect();
        if !right.is_empty() {
            lines.push(format!("{} {}", test.name, right.join(" ")));
        }
    }
    lines.join("\n") + "\n"
}

fn roads(test: &Done) -> impl Iterator<Item = (&'static str, &Road)> {
    [("network", &test.network), ("constants", &test.constants)].into_iter()
}

/// What the list says must pass and does not.
fn lost(must_pass: &str, done: &NodeTests) -> Vec<String> {
    let mut lost = Vec::new();
    for line in must_pass.lines().filter(|l| !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let Some(test) = done.tests.iter().find(|t| t.name == name) else {
            lost.push(format!(
                "{name} is not among the tests (onnx {}; see the list's first line)",
                done.onnx
            ));
            continue;
        };
        for word in words {
            match roads(test).find(|(road, _)| *road == word) {
                Some((_, Road::Right)) => {}
                Some((_, Road::Wrong(why) | Road::Unsupported(why))) => {
                    lost.push(format!("{name} as {word}: {why}"))
                }
                None => lost.push(format!("{name}: `{word}` is not a road")),
            }
        }
    }
    lost
}

impl NodeTests {
    /// How many ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.tests.iter().filter(|t| t.outcome == outcome).count()
    }

    /// True if nothing is wrong and nothing that must pass was lost.
    pub fn good(&self) -> bool {
        self.count(Outcome::Failed) == 0 && self.lost.is_empty()
    }

    /// For each operator, how its tests ended.
    pub fn by_operator(&self) -> Table {
        let mut table =
            Table::new(&["operator", "passed", "failed", "skipped", "as network", "as constants"]);
        let operators: std::collections::BTreeSet<&str> =
            self.tests.iter().map(|t| t.operator.as_str()).collect();
        for operator in operators {
            let tests: Vec<&Done> = self.tests.iter().filter(|t| t.operator == operator).collect();
            let count = |which: &dyn Fn(&Done) -> bool| tests.iter().filter(|t| which(t)).count().to_string();
            table.row(vec![
                operator.to_string(),
                count(&|t| t.outcome == Outcome::Passed),
                count(&|t| t.outcome == Outcome::Failed),
                count(&|t| t.outcome == Outcome::Skipped),
                count(&|t| t.network == Road::Right),
                count(&|t| t.constants == Road::Right),
            ]);
        }
        table
    }

    /// Why tests were skipped, the most frequent reason first.
    pub fn reasons(&self) -> Table {
        let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for test in self.tests.iter().filter(|t| t.outcome == Outcome::Skipped) {
            let why = match (&test.network, &test.constants) {
                (Road::Unsupported(why), _) if !why.starts_with(NO_NETWORK) => why,
                (_, Road::Unsupported(why)) => why,
                _ => continue,
            };
            // most reasons begin with the operator themselves
            let prefix = if why.starts_with(&test.operator) { "" } else { &format!("{}: ", test.operator) };
            reasons.entry(format!("{prefix}{why}")).or_default().push(&test.name);
        }
        let mut reasons: Vec<(String, Vec<&str>)> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, tests)| std::cmp::Reverse(tests.len()));
        let mut table = Table::new(&["skipped because", "tests"]);
        for (why, tests) in reasons {
            table.row(vec![why, tests.len().to_string()]);
        }
        table
    }

    /// What is wrong, a line each.
    pub fn wrong(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for test in &self.tests {
            for (name, road) in roads(test) {
                if let Road::Wrong(why) = road {
                    lines.push(format!("{} as {name}: {why}", test.name));
                }
            }
        }
        lines
    }

    /// `N passed, N failed, N skipped`.
    pub fn closing(&self) -> String {
        let [passed, failed, skipped] =
            [Outcome::Passed, Outcome::Failed, Outcome::Skipped].map(|o| self.count(o));
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(name: &str, network: Road, constants: Road, outcome: Outcome) -> Done {
        Done { name: name.into(), operator: "Relu".into(), network, constants, outcome }
    }

    fn tests() -> NodeTests {
        let no = || Road::Unsupported("float16".to_string());
        let tests = vec![
            done("test_a", Road::Right, no(), Outcome::Passed),
            done("test_b", Road::Right, Road::Wrong("y[0] is 1 and not 2".into()), Outcome::Failed),
            done("test_c", no(), no(), Outcome::Skipped),
        ];
        NodeTests { onnx: "1.0".into(), others: 3, not_tensors: 0, tests, lost: Vec::new() }
    }

    #[test]
    fn closeness_is_that_of_numpy() {
        assert!(close(1.0, 1.0009, 1e-3, 0.0) && !close(1.0, 1.002, 1e-3, 0.0));
        assert!(close(f64::NAN, f64::NAN, 0.0, 0.0) && !close(f64::NAN, 1.0, 1.0, 1.0));
        assert!(close(f64::INFINITY, f64::INFINITY, 0.0, 0.0));
        assert!(!close(f64::INFINITY, f64::NEG_INFINITY, 1.0, 1.0) && !close(1.0, f64::INFINITY, 1.0, 1.0));
    }

    #[test]
    fn what_must_pass_is_missed() {
        let list = list(&tests());
        assert_eq!(list.lines().skip(1).collect::<Vec<_>>(), ["test_a network", "test_b network"]);
        assert_eq!(lost(&list, &tests()), Vec::<String>::new());
        let lost = lost("# x\ntest_a network constants\ntest_c network\ntest_d constants\n", &tests());
        assert_eq!(lost.len(), 3, "{lost:?}");
        assert!(lost[0].contains("test_a as constants: float16") && lost[2].contains("test_d"));
    }

    #[test]
    fn the_committed_list_is_not_empty() {
        assert!(MUST_PASS.lines().count() > 100);
    }

    #[test]
    fn sums() {
        let tests = tests();
        assert_eq!(tests.closing(), "1 passed, 1 failed, 1 skipped");
        assert!(!tests.good());
        assert_eq!(tests.wrong(), ["test_b as constants: y[0] is 1 and not 2"]);
        assert!(tests.reasons().text().contains("Relu: float16"));
        assert!(tests.by_operator().text().contains("Relu"));
        let one = guarded(|| panic!("oh"));
        assert_eq!(one, Road::Wrong("panicked: oh".into()));
    }
}
