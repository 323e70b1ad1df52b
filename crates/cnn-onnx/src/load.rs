//! Import of a file as a graph.

use crate::constants;
use crate::draft::Drafts;
use crate::error::{Unsupported, UnsupportedItem};
use crate::import::{Importer, is_known};
use crate::kind::ElementKind;
use crate::model::{Index, decode, label, opset, sizes, tensor_type};
use crate::op::{Op, Refusal};
use crate::patterns::simplify;
use crate::proto::{ModelProto, NodeProto, ValueInfoProto};
use crate::slot::{Budget, Inputs, Slot};
use crate::source::Source;
use crate::value::{Value, claimed_elements};
use crate::{Error, Result, metadata};
use cnn_core::Graph;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// What a file does not say, and what is allowed.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Shape of the image without batch, `[c, h, w]`, where the file leaves it open.
    pub input_shape: Option<Vec<usize>>,
    /// Values of further inputs: only one can be the image.
    pub constants: BTreeMap<String, Value>,
    /// The value that is the network's output; the file's first output if `None`. It may be any value inside
    /// the network.
    pub output: Option<String>,
    /// Most elements of all constants together, and of any value for one image.
    pub limit: u64,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions { input_shape: None, constants: BTreeMap::new(), output: None, limit: 1 << 29 }
    }
}

/// A network that was read from an ONNX file.
#[derive(Debug, Clone)]
pub struct Imported {
    /// The network, trainable; the batch is open.
    pub graph: Graph,
    /// How often each operator occurs in the part of the file that the output depends on.
    pub operators: BTreeMap<String, usize>,
    /// Version of the standard that the file uses.
    pub opset: i64,
    /// Program that wrote the file, with its version.
    pub producer: String,
    /// Name of the input in the file.
    pub input: String,
    /// Name of the output in the file.
    pub output: String,
}

/// Elements that constants may be folded to whatever the size of the file: 64 MiB.
const FREE_ELEMENTS: u64 = 1 << 24;
/// Elements that they may be folded to for each byte: a bit is an element, in a few steps.
const ELEMENTS_A_BYTE: u64 = 64;

/// Most nodes: more than any network of images has, and few enough for what looks at all nodes for each.
const MOST_NODES: usize = 20_000;

/// Reads a network from a file; constants may be in other files in its directory.
///
/// # Errors
/// If the file cannot be read, is damaged or not ONNX; if it uses what is not supported, all of which the
/// error lists; if it contradicts itself or asks for more memory than the options allow.
pub fn load(path: &Path, options: &ImportOptions) -> Result<Imported> {
    let source = Source::open(path)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    import(&source, Some(directory), options)
}

/// Reads a network from the bytes of a file; constants in other files are looked for in `directory`.
///
/// ```
/// use cnn_core::{tensor::{relative_error, zeros}, testing::lenet5};
/// let graph = lenet5(0)?;
/// let bytes = cnn_onnx::to_bytes(&graph, &Default::default())?;
/// let back = cnn_onnx::from_bytes(&bytes, None, &Default::default())?.graph;
/// assert_eq!(back.cost()?, graph.cost()?);
/// assert!(back.node("conv1").is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// As [`load`].
pub fn from_bytes(bytes: &[u8], directory: Option<&Path>, options: &ImportOptions) -> Result<Imported> {
    import(&Source::bytes(bytes), directory, options)
}

/// Evaluates a model whose inputs are all given, by constant folding alone, and returns its outputs.
///
/// # Errors
/// If the model is damaged, or uses operators that do not fold.
pub fn evaluate(bytes: &[u8], inputs: &BTreeMap<String, Value>) -> Result<Vec<Value>> {
    let source = Source::bytes(bytes);
    let model = decode(&source)?;
    let opset = opset(&model)?;
    let graph = model.graph.as_ref().ok_or_else(no_network)?;
    let index = Index::new(graph)?;
    let outputs: Vec<&str> = graph.output.iter().map(|o| o.name.as_str()).collect();
    let options = ImportOptions { constants: inputs.clone(), ..ImportOptions::default() };
    let importer = Importer {
        // folding never looks at the image
        drafts: Drafts::new(&[1], options.limit).map_err(|r| node_error("", "", r))?,
        budget: Budget::new(elements_of(bytes.len() as u64, &options)),
        exported_batch: None,
    };
    let mut walk = Walk::new(&index, importer, opset, (&source, None), &options);
    walk.run(&index.order(&outputs)?, &outputs)?;
    let slot = |name: &&str| match walk.slot(name)? {
        Some(Slot::Constant(value, _)) => Ok(value),
        _ => Err(Error::Model(format!("the output `{name}` is not known"))),
    };
    outputs.iter().map(slot).collect()
}

/// Elements that a file of so many bytes may ask for. A file may have holes, whose bytes nobody stored, so its length alone is not enough.
fn elements_of(bytes: u64, options: &ImportOptions) -> u64 {
    FREE_ELEMENTS.saturating_add(ELEMENTS_A_BYTE.saturating_mul(bytes.min(options.limit)))
}

fn no_network() -> Error {
    Error::Damaged("it holds no network".to_string())
}

fn import(source: &Source<'_>, directory: Option<&Path>, options: &ImportOptions) -> Result<Imported> {
    let model = decode(source)?;
    let opset = opset(&model)?;
    let graph = model.graph.as_ref().ok_or_else(no_network)?;
    if graph.node.len() > MOST_NODES {
        return Err(Error::Model(format!("it has {} nodes, more than {MOST_NODES}", graph.node.len())));
    }
    let index = Index::new(graph)?;
    let output = output_name(&index, options)?;
    let order = index.order(&[output])?;
    let image = image_input(&index, &order, output, options)?;
    let (shape, exported_batch) = image_shape(image, options)?;

    let importer = Importer {
        drafts: Drafts::new(&shape, options.limit).map_err(|r| node_error(&image.name, "input", r))?,
        budget: Budget::new(elements_of(source.length(), options)),
        exported_batch,
    };
    let mut walk = Walk::new(&index, importer, opset, (source, directory), options);
    walk.slots.insert(&image.name, Slot::Dynamic(0));
    walk.run(&order, &[output])?;
    let at = match walk.slot(output)? {
        Some(Slot::Dynamic(at)) => at,
        Some(Slot::Levels(_)) => {
            return Err(Error::Model(format!(
                "the output `{output}` is quantized; name the value before as the output"
            )));
        }
        _ => return Err(Error::Model(format!("the output `{output}` does not depend on the image"))),
    };
    let mut drafts = walk.importer.drafts;
    simplify(&mut drafts, at).map_err(|r| node_error(output, "output", r))?;
    let mut built = drafts.build(at)?;
    if let Some(entry) = model.metadata_props.iter().find(|e| e.key == metadata::KEY) {
        built.preprocess = Some(metadata::read(&entry.value, shape.first().copied().unwrap_or(1))?);
    }
    let mut operators = BTreeMap::new();
    for &at in &order {
        *operators.entry(graph.node[at].op_type.clone()).or_default() += 1;
    }
    Ok(Imported {
        graph: built,
        operators,
        opset,
        producer: producer(&model),
        input: image.name.clone(),
        output: output.to_string(),
    })
}

fn producer(model: &ModelProto) -> String {
    format!("{} {}", model.producer_name, model.producer_version).trim().to_string()
}

/// The value that is to be the output.
fn output_name<'a>(index: &Index<'a>, options: &'a ImportOptions) -> Result<&'a str> {
    let outputs = || index.graph.output.iter().map(|o| o.name.as_str()).collect::<Vec<_>>().join(", ");
    match &options.output {
        Some(name) if index.exists(name) => Ok(name),
        Some(name) => {
            Err(Error::Model(format!("there is no value `{name}`; the outputs are: {}", outputs())))
        }
        None => match index.graph.output.first().map(|o| o.name.as_str()) {
            Some(name) if index.exists(name) => Ok(name),
            Some(name) => Err(Error::Model(format!("nothing makes the output `{name}`"))),
            None => Err(Error::Model("it has no outputs".to_string())),
        },
    }
}

/// The only input that the output depends on and that is not bound to a constant.
fn image_input<'a>(
    index: &Index<'a>,
    order: &[usize],
    output: &str,
    options: &ImportOptions,
) -> Result<&'a ValueInfoProto> {
    let names = |list: &[&str]| list.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if let Some(bad) = options.constants.keys().find(|name| !index.exists(name)) {
        let known: Vec<&str> = index.graph.input.iter().map(|i| i.name.as_str()).collect();
        return Err(Error::Model(format!("there is no input `{bad}`; the inputs are: {}", names(&known))));
    }
    let read: HashSet<&str> =
        order.iter().flat_map(|&at| index.graph.node[at].input.iter().map(String::as_str)).collect();
    let open: Vec<&ValueInfoProto> = index
        .graph
        .input
        .iter()
        .filter(|i| index.inputs.contains_key(i.name.as_str()) && !options.constants.contains_key(&i.name))
        .filter(|i| i.name == output || read.contains(i.name.as_str()))
        .collect();
    match open[..] {
        [only] => Ok(only),
        [] => Err(Error::Model(format!("the output `{output}` does not depend on any input"))),
        _ => {
            let open: Vec<&str> = open.iter().map(|i| i.name.as_str()).collect();
            Err(Error::Model(format!(
                "it has the inputs {}, but only one can be the image; bind the others to values with `ImportOptions::constants`",
                names(&open)
            )))
        }
    }
}

/// Shape of the image without batch, and the batch size of the file if it is fixed.
fn image_shape(input: &ValueInfoProto, options: &ImportOptions) -> Result<(Vec<usize>, Option<usize>)> {
    let bad = |why: String| Error::Model(format!("the input `{}` {why}", input.name));
    let of = tensor_type(input).ok_or_else(|| bad("is not a tensor".to_string()))?;
    match ElementKind::from_code(of.elem_type) {
        Some(kind) if kind.is_float() => {}
        Some(kind) => {
            return Err(bad(format!("is of type {kind}; export the network with floats as its input")));
        }
        None => return Err(bad(format!("has the unknown element type {}", of.elem_type))),
    }
    let given = options.input_shape.as_deref();
    let Some(sizes) = sizes(of) else {
        let shape =
            given.ok_or_else(|| bad("has no shape; say it with `ImportOptions::input_shape`".to_string()))?;
        return Ok((shape.to_vec(), None));
    };
    let Some((batch, rest)) = sizes.split_first() else {
        return Err(bad("is a single number; an image has a batch axis in front".to_string()));
    };
    if let Some(given) = given {
        let fits =
            given.len() == rest.len() && rest.iter().zip(given).all(|(r, g)| r.is_none_or(|r| r == *g));
        return match fits {
            true => Ok((given.to_vec(), *batch)),
            false => Err(bad(format!("has the shape {rest:?} in the file, not {given:?}"))),
        };
    }
    match rest.iter().copied().collect::<Option<Vec<_>>>() {
        Some(shape) => Ok((shape, *batch)),
        None => Err(bad(
            "has open sizes besides the batch; say them with `ImportOptions::input_shape`".to_string()
        )),
    }
}

/// The error of a node that contradicts the standard.
fn node_error(node: &str, operator: &str, refusal: Refusal) -> Error {
    let (Refusal::Invalid(why) | Refusal::Unsupported(why)) = refusal;
    Error::Node { node: node.to_string(), operator: operator.to_string(), why }
}

/// The way through all operators.
struct Walk<'a> {
    index: &'a Index<'a>,
    importer: Importer,
    opset: i64,
    source: &'a Source<'a>,
    directory: Option<&'a Path>,
    options: &'a ImportOptions,
    slots: HashMap<&'a str, Slot>,
    /// Shapes that the file notes for values in between.
    noted: HashMap<&'a str, &'a ValueInfoProto>,
    /// Elements of the constants read so far.
    read: u64,
}

impl<'a> Walk<'a> {
    fn new(
        index: &'a Index<'a>,
        importer: Importer,
        opset: i64,
        (source, directory): (&'a Source<'a>, Option<&'a Path>),
        options: &'a ImportOptions,
    ) -> Walk<'a> {
        let noted = index.graph.value_info.iter().map(|v| (v.name.as_str(), v)).collect();
        Walk { index, importer, opset, source, directory, options, slots: HashMap::new(), noted, read: 0 }
    }

    /// What is known of a value; constants are read when they are first asked for.
    fn slot(&mut self, name: &str) -> Result<Option<Slot>> {
        if let Some(value) = self.options.constants.get(name) {
            return Ok(Some(Slot::constant(value.clone())));
        }
        if let Some(slot) = self.slots.get(name) {
            return Ok(Some(slot.clone()));
        }
        let Some((&name, proto)) = self.index.initializers.get_key_value(name) else { return Ok(None) };
        let value = constants::read(proto, self.source, self.directory, self.options.limit)?;
        self.read += value.len() as u64;
        if self.read > self.options.limit {
            return Err(Error::TooLarge {
                what: "the sum of all constants".to_string(),
                elements: format!("{} and more", self.read),
                limit: self.options.limit,
            });
        }
        if proto.data_location == 1 {
            self.importer.budget.grant(ELEMENTS_A_BYTE * value.len() as u64);
        }
        let slot = Slot::Constant(value, Some(Arc::from(name)));
        self.slots.insert(name, slot.clone());
        Ok(Some(slot))
    }

    /// Converts the nodes in order.
    fn run(&mut self, order: &[usize], outputs: &[&str]) -> Result<()> {
        let nodes = &self.index.graph.node;
        let mut readers: HashMap<&str, usize> = HashMap::new();
        let read = order.iter().flat_map(|&at| nodes[at].input.iter().map(String::as_str));
        read.chain(outputs.iter().copied()).for_each(|name| *readers.entry(name).or_default() += 1);

        let mut items = Vec::new();
        if !self.index.graph.sparse_initializer.is_empty() {
            let [node, operator] = ["", "sparse_initializer"].map(str::to_string);
            items.push(UnsupportedItem { node, operator, why: Some("constants in sparse form".to_string()) });
        }
        for &at in order {
            let node = &nodes[at];
            let mut inputs = Vec::with_capacity(node.input.len());
            for name in node.input.iter().map(String::as_str) {
                inputs.push(if name.is_empty() { None } else { self.slot(name)? });
                // the last reader has a value for itself: large constants are folded in several steps, and
                // their memory becomes that of a layer
                if let Some(left) = readers.get_mut(name) {
                    *left -= 1;
                    if *left == 0 {
                        self.slots.remove(name);
                    }
                }
            }
            let used: Vec<bool> = node.output.iter().map(|o| readers.contains_key(o.as_str())).collect();
            match self.node(node, inputs, &used) {
                Ok(slots) => {
                    let named = node.output.iter().map(String::as_str).zip(slots);
                    self.slots.extend(named.filter(|(name, _)| !name.is_empty()));
                }
                Err(Refusal::Unsupported(why)) => {
                    if why != ALREADY_LISTED {
                        items.push(unsupported(node, why));
                    }
                    for name in &node.output {
                        let lost = self.noted_shape(name);
                        self.slots.insert(name, lost);
                    }
                }
                Err(invalid) => {
                    let op = Op { node, opset: self.opset, source: self.source };
                    return Err(node_error(&op.label(), op.kind(), invalid));
                }
            }
        }
        match items.is_empty() {
            true => Ok(()),
            false => Err(Error::Unsupported(Unsupported { items })),
        }
    }

    fn node(
        &mut self,
        node: &NodeProto,
        inputs: Vec<Option<Slot>>,
        used: &[bool],
    ) -> Result<Vec<Slot>, Refusal> {
        let standard = node.domain.is_empty() || node.domain == "ai.onnx";
        if !standard || !is_known(&node.op_type) {
            return Err(Refusal::Unsupported(String::new()));
        }
        if inputs.iter().flatten().any(|slot| matches!(slot, Slot::Lost)) {
            return Err(Refusal::unsupported(ALREADY_LISTED));
        }
        let op = Op { node, opset: self.opset, source: self.source };
        self.importer.convert(&op, Inputs(inputs), used)
    }

    /// A stand-in of the shape that the file notes, so that what follows an unsupported operator is looked at
    /// too.
    fn noted_shape(&mut self, name: &str) -> Slot {
        let shape = self.noted.get(name).and_then(|info| {
            let of = tensor_type(info)?;
            let float = ElementKind::from_code(of.elem_type).is_some_and(ElementKind::is_float);
            let sizes = sizes(of).filter(|s| float && !s.is_empty())?;
            std::iter::once(Some(1)).chain(sizes.into_iter().skip(1)).collect::<Option<Vec<usize>>>()
        });
        match shape {
            Some(shape) if claimed_elements(&shape).is_some_and(|n| n <= self.options.limit) => {
                Slot::Dynamic(self.importer.drafts.push_placeholder(&shape))
            }
            _ => Slot::Lost,
        }
    }
}

/// Why a node is given up that reads from one that is listed.
const ALREADY_LISTED: &str = "(reads what is not supported)";

fn unsupported(node: &NodeProto, why: String) -> UnsupportedItem {
    let operator = match node.domain.as_str() {
        "" | "ai.onnx" => node.op_type.clone(),
        domain => format!("{domain}.{}", node.op_type),
    };
    UnsupportedItem { node: label(node).to_string(), operator, why: (!why.is_empty()).then_some(why) }
}
