//! A network in standard operators: what an exporter needs of it, without knowing any layer.
//!
//! Each layer writes itself down with [`Layer::express`](crate::Layer::express) in operators of the ONNX standard, opset 17. The numbers keep their
//! narrow types (8-bit weights, indices into a codebook), so that the exported file is as small as the standard
//! allows. Packages that read and write files build on [`StandardGraph`]; nothing here knows their format.

use crate::graph::Graph;
use crate::param::Param;
use crate::tensor::{Tensor, elements};
use crate::{Error, Result};
use std::collections::HashSet;

mod sparse;

/// Numbers of a constant, in the type in which they are stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Numbers {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// Unsigned bytes.
    U8(Vec<u8>),
    /// Numbers below 16, one an element here and two a byte in a file; only when [`Express::four_bit`] allows it.
    U4(Vec<u8>),
    /// Signed bytes.
    I8(Vec<i8>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// 64-bit integers: shapes, axes.
    I64(Vec<i64>),
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Numbers::F32(v) => v.len(),
            Numbers::U8(v) | Numbers::U4(v) => v.len(),
            Numbers::I8(v) => v.len(),
            Numbers::I32(v) => v.len(),
            Numbers::I64(v) => v.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The element type that `Cast` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit float.
    F32,
    /// 32-bit integer.
    I32,
}

/// An attribute of an operator.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// One integer.
    Int(i64),
    /// One float.
    Float(f32),
    /// Several integers.
    Ints(Vec<i64>),
    /// A word.
    Text(&'static str),
    /// An element type.
    Type(ElementType),
}

impl Attribute {
    /// Several sizes as integers.
    pub fn sizes(sizes: &[usize]) -> Attribute {
        Attribute::Ints(sizes.iter().map(|&s| s as i64).collect())
    }
}

/// A constant by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Unique name.
    pub name: String,
    /// Shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub numbers: Numbers,
}

/// One operator of the standard.
#[derive(Debug, Clone, PartialEq)]
pub struct Operator {
    /// The standard's name of the operator, as `"Conv"`.
    pub kind: &'static str,
    /// Unique name.
    pub name: String,
    /// Names of the values it reads; empty for an optional one left out.
    pub inputs: Vec<String>,
    /// Name of the value it makes.
    pub output: String,
    /// Attributes that differ from the standard's defaults.
    pub attributes: Vec<(&'static str, Attribute)>,
}

/// A whole network in standard operators, in execution order. The first axis of input and output is the batch.
#[derive(Debug, Clone, PartialEq)]
pub struct StandardGraph {
    /// Name and shape of the input, without the batch axis.
    pub input: (String, Vec<usize>),
    /// Name and shape of the output, without the batch axis.
    pub output: (String, Vec<usize>),
    /// The operators.
    pub operators: Vec<Operator>,
    /// The constants.
    pub constants: Vec<Constant>,
}

/// A value inside a network being expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value(usize);

impl Value {
    /// An optional input that is left out.
    pub const NONE: Value = Value(0);
}

/// Where a layer writes itself down.
#[derive(Debug)]
pub struct Express<'a> {
    /// Whether constants may have four bits (opset 21 and later).
    pub four_bit: bool,
    node: &'a str,
    inputs: Vec<Value>,
    shapes: Vec<&'a [usize]>,
    output: Option<Value>,
    into: &'a mut Expressed,
}

/// What was expressed so far; a [`Value`] is a position in `names`.
#[derive(Debug)]
struct Expressed {
    names: Vec<String>,
    taken: HashSet<String>,
    operators: Vec<Application>,
    constants: Vec<(Value, Vec<usize>, Numbers)>,
}

/// An [`Operator`] before its values have their names.
#[derive(Debug)]
struct Application {
    kind: &'static str,
    inputs: Vec<Value>,
    output: Value,
    attributes: Vec<(&'static str, Attribute)>,
}

impl Expressed {
    fn value(&mut self, name: String) -> Value {
        let mut unique = name.clone();
        let mut count = 1;
        while !self.taken.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}_{count}");
        }
        self.names.push(unique);
        Value(self.names.len() - 1)
    }
}

impl Express<'_> {
    /// The layer's input at a position.
    ///
    /// # Errors
    /// If there are not so many.
    pub fn input(&self, at: usize) -> Result<Value> {
        let count = self.inputs.len();
        self.inputs
            .get(at)
            .copied()
            .ok_or_else(|| Error::Shape(format!("input {at} of a layer with {count} inputs")))
    }

    /// The layer's inputs.
    pub fn inputs(&self) -> Vec<Value> {
        self.inputs.clone()
    }

    /// The shape of the input at a position, with a batch of one.
    ///
    /// # Errors
    /// If there are not so many inputs.
    pub fn shape(&self, at: usize) -> Result<&[usize]> {
        self.input(at)?;
        Ok(self.shapes[at])
    }

    /// A constant; `label` says what it is, as `"weight"`.
    ///
    /// # Errors
    /// If the numbers are not as many as the shape says.
    pub fn constant(&mut self, label: &str, shape: &[usize], numbers: Numbers) -> Result<Value> {
        if numbers.len() != elements(shape) {
            return Err(Error::Shape(format!("{} numbers in a constant of shape {shape:?}", numbers.len())));
        }
        let value = self.into.value(format!("{}.{label}", self.node));
        self.into.constants.push((value, shape.to_vec(), numbers));
        Ok(value)
    }

    /// A tensor as a constant.
    ///
    /// # Errors
    /// As [`Express::constant`].
    pub fn tensor(&mut self, label: &str, tensor: &Tensor) -> Result<Value> {
        self.constant(label, tensor.shape(), Numbers::F32(tensor.iter().copied().collect()))
    }

    /// The values of a parameter as a constant.
    ///
    /// # Errors
    /// [`Error::Constrained`] if it still carries a constraint: a masked dense layer is not passed off as a small one.
    pub fn param(&mut self, label: &str, param: &Param) -> Result<Value> {
        param.refuse_constraints()?;
        self.tensor(label, param.value())
    }

    /// A list of 64-bit integers: a shape, axes.
    ///
    /// # Errors
    /// As [`Express::constant`].
    pub fn integers(&mut self, label: &str, integers: &[i64]) -> Result<Value> {
        self.constant(label, &[integers.len()], Numbers::I64(integers.to_vec()))
    }

    /// Applies an operator of the standard.
    pub fn operator(
        &mut self,
        kind: &'static str,
        inputs: &[Value],
        attributes: Vec<(&'static str, Attribute)>,
    ) -> Value {
        let output = self.into.value(format!("{}/{kind}", self.node));
        self.into.operators.push(Application { kind, inputs: inputs.to_vec(), output, attributes });
        output
    }

    /// Says which value is the layer's output.
    pub fn output(&mut self, value: Value) {
        self.output = Some(value);
    }
}

/// Writes a graph down in standard operators.
///
/// ```
/// use cnn_core::{express::express, testing::lenet5};
/// let standard = express(&lenet5(0)?, false)?;
/// let kinds: Vec<&str> = standard.operators.iter().map(|o| o.kind).collect();
/// assert_eq!(kinds[..3], ["Conv", "MaxPool", "Conv"]);
/// assert_eq!(standard.output.1, [10]);
/// # Ok::<(), cnn_core::Error>(())
/// ```
///
/// # Errors
/// If a layer cannot be expressed; the node is named.
pub fn express(graph: &Graph, four_bit: bool) -> Result<StandardGraph> {
    let shapes = graph.shapes(1)?;
    let mut into = Expressed {
        names: vec![String::new()],
        taken: HashSet::new(),
        operators: Vec::new(),
        constants: Vec::new(),
    };
    let input = into.value(graph.nodes()[0].name.clone());
    let mut values = vec![input];
    for node in &graph.nodes()[1..] {
        let mut at = Express {
            four_bit,
            node: &node.name,
            inputs: node.inputs.iter().map(|&i| values[i]).collect(),
            shapes: node.inputs.iter().map(|&i| shapes[i].as_slice()).collect(),
            output: None,
            into: &mut into,
        };
        node.layer().express(&mut at).map_err(|e| e.at(&node.name))?;
        let value = at.output.ok_or_else(|| {
            Error::Edit(format!("a `{}` layer did not say its output", node.layer().kind())).at(&node.name)
        })?;
        // the value gets the node's name if the layer made it, and not if it handed its input on
        if !at.inputs.contains(&value) && into.taken.insert(node.name.clone()) {
            into.names[value.0].clone_from(&node.name);
        }
        values.push(value);
    }
    let mut output = values[graph.output()];
    if output == input {
        output = into.value("output".to_string());
        let (inputs, attributes) = (vec![input], Vec::new());
        into.operators.push(Application { kind: "Identity", inputs, output, attributes });
    }
    let name = |value: Value| into.names[value.0].clone();
    let operators = into.operators.iter().map(|o| Operator {
        kind: o.kind,
        name: name(o.output),
        inputs: o.inputs.iter().map(|&i| name(i)).collect(),
        output: name(o.output),
        attributes: o.attributes.clone(),
    });
    let operators = operators.collect();
    let names = [name(input), name(output)];
    let constants = into.constants.into_iter().map(|(value, shape, numbers)| Constant {
        name: into.names[value.0].clone(),
        shape,
        numbers,
    });
    let constants = constants.collect();
    let [input, output] = names;
    Ok(StandardGraph {
        input: (input, graph.input_shape().to_vec()),
        output: (output, shapes[graph.output()][1..].to_vec()),
        operators,
        constants,
    })
}

#[cfg(test)]
mod tests {
    use super::express;
    use crate::Graph;
    use crate::layers::{Add, ChannelMap, Dropout, Flatten, Linear};
    use crate::tensor::zeros;

    fn kinds(graph: &Graph) -> Vec<&'static str> {
        express(graph, false).unwrap().operators.iter().map(|o| o.kind).collect()
    }

    #[test]
    fn a_layer_without_operators_hands_its_input_on() {
        let mut graph = Graph::new(&[4]);
        graph.push("drop", Dropout::new(0.5).unwrap()).unwrap();
        assert_eq!(kinds(&graph), ["Identity"], "input and output of a network are two values");
        graph.push("fc", Linear::new(zeros(&[2, 4]), None).unwrap()).unwrap();
        let standard = express(&graph, false).unwrap();
        assert_eq!(standard.operators[0].inputs, ["input", "fc.weight"]);
        assert_eq!(standard.output, ("fc".to_string(), vec![2]));
    }

    #[test]
    fn names_are_unique_whatever_the_nodes_are_called() {
        let mut graph = Graph::new(&[2, 3, 3]);
        graph.push("a", Flatten).unwrap();
        graph.add("a/Add", Flatten, &["input"]).unwrap();
        graph.add("b", Add, &["a", "a/Add", "a"]).unwrap();
        let standard = express(&graph, false).unwrap();
        let mut names: Vec<&str> = standard.operators.iter().map(|o| o.output.as_str()).collect();
        assert_eq!(names.last(), Some(&"b"));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), standard.operators.len());
    }

    #[test]
    fn a_map_of_channels_takes_the_shortest_form() {
        let with = |map: ChannelMap| {
            let mut graph = Graph::new(&[6, 2, 2]);
            graph.push("map", map).unwrap();
            kinds(&graph)
        };
        assert_eq!(with(ChannelMap::shuffle(6, 3).unwrap()), ["Reshape", "Transpose", "Reshape"]);
        assert_eq!(with(ChannelMap::pad(6, 1, 2).unwrap()), ["Pad"]);
        assert_eq!(with(ChannelMap::slice(6, 1, 3).unwrap()), ["Slice"]);
        assert_eq!(with(ChannelMap::new(6, vec![Some(4), Some(2), Some(0)]).unwrap()), ["Slice"]);
        assert_eq!(with(ChannelMap::new(6, vec![Some(4), Some(4)]).unwrap()), ["Gather"]);
        assert_eq!(with(ChannelMap::new(6, vec![Some(4), None, Some(1)]).unwrap()), ["Pad", "Gather"]);
    }
}
