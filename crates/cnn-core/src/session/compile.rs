//! From a graph to the steps of a plan: which nodes become one kernel, which become none, where layouts change.

use super::SessionOptions;
use super::arena;
use super::codes::{Dequantize, Quantize};
use super::demand;
use super::gather::Gather;
use super::groups::{Group, groups};
use super::infer::Infer;
use super::kernel::{Kernel, Part, Place, cover};
use super::layout::Convert;
use super::lowering::{Edge, Layout, Levels, Lowered, Lowering, Shared, channels_are_rows};
use super::plan::{Plan, Step};
use super::tune::{self, Decisions};
use crate::graph::Graph;
use crate::layers::{ChannelMap, Concat, Dropout, Flatten, Identity, Reshape};
use crate::simd::Isa;
use crate::{Error, Result};

/// Where the values of a node are.
#[derive(Debug, Clone)]
struct Value {
    /// Index of the memory it lies in; 0 is the caller's images.
    storage: usize,
    offset: usize,
    pitch: usize,
    layout: Layout,
    /// Of codes.
    levels: Option<Levels>,
    shape: Vec<usize>,
}

impl Value {
    fn edge(&self) -> Edge {
        Edge { shape: self.shape.clone(), layout: self.layout }
    }

    /// Floats from the first to the end of the last.
    fn span(&self) -> usize {
        let (pixels, channels) = self.rows();
        self.offset + pixels.saturating_sub(1) * self.pitch + channels
    }

    /// Rows and their floats.
    fn rows(&self) -> (usize, usize) {
        let (pixels, channels) = Edge::rows(&self.shape, self.layout);
        (pixels, floats(channels, self.layout))
    }
}

/// A step before its memory has an address.
struct Draft {
    node: String,
    kind: String,
    kernel: Box<dyn Kernel>,
    parts: Vec<Part>,
    inputs: Vec<Value>,
    output: Value,
    flops: u64,
}

/// Compiles a graph for one input shape. `packs` keeps packed weights that several plans share, one for each node; with `last`
/// the layers are dropped as soon as they are packed.
pub(super) fn compile(
    graph: &mut Graph,
    shape: &[usize],
    options: &SessionOptions,
    isa: Isa,
    packs: &[Shared],
    decisions: &mut Decisions,
    last: bool,
) -> Result<Plan> {
    let shapes = graph.shapes_for(shape)?;
    let groups = groups(graph, &shapes);
    let levels = demand::levels(graph, &groups, &shapes, isa);
    let mut compiler = Compiler {
        isa,
        options,
        decisions,
        drafts: Vec::new(),
        storages: 1,
        values: vec![None; shapes.len()],
        slots: vec![None; shapes.len()],
        converted: Vec::new(),
        levels,
        shapes,
    };
    compiler.values[0] = Some(gapless(0, &compiler.shapes[0], Layout::Planar));
    compiler.reserve_concats(graph, &groups);
    for group in &groups {
        compiler.emit(graph, group, packs)?;
        if last {
            graph.forget_layer(group.head);
        }
    }
    compiler.finish(graph.output(), shape)
}

struct Compiler<'a> {
    isa: Isa,
    options: &'a SessionOptions,
    decisions: &'a mut Decisions,
    drafts: Vec<Draft>,
    storages: usize,
    shapes: Vec<Vec<usize>>,
    values: Vec<Option<Value>>,
    /// Values that are to be written into a place of a concatenation's memory.
    slots: Vec<Option<Value>>,
    /// What all readers of a value put it on.
    levels: Vec<Option<Levels>>,
    /// Nodes whose value is at hand in a second layout.
    converted: Vec<(usize, Value)>,
}

impl Compiler<'_> {
    fn fresh(&mut self, shape: &[usize], layout: Layout) -> Value {
        self.storages += 1;
        gapless(self.storages - 1, shape, layout)
    }

    /// Lets the inputs of concatenations be written where the concatenation wants them.
    fn reserve_concats(&mut self, graph: &Graph, groups: &[Group]) {
        let written_by_step = |node: usize| {
            groups.iter().any(|g| g.last == node && !computes_nothing(graph, g, &self.shapes[g.head]))
        };
        // The last concatenation first, so that one inside another finds its own place decided.
        let concats = groups.iter().rev().filter(|g| {
            let concat = graph.nodes()[g.head].layer().is::<Concat>() && g.gathers.is_none();
            concat && channels_are_rows(&self.shapes[g.head])
        });
        let mut slots = vec![None; self.slots.len()];
        let mut storages = self.storages;
        for group in concats {
            let shape = self.shapes[group.head].clone();
            let whole = slots[group.head].clone().unwrap_or_else(|| {
                storages += 1;
                match self.levels[group.last] {
                    Some(levels) => codes(storages - 1, &shape, levels),
                    None => gapless(storages - 1, &shape, for_rank(&shape, Layout::ChannelsLast)),
                }
            });
            let mut first = 0;
            for &input in &graph.nodes()[group.head].inputs {
                let shape = self.shapes[input].clone();
                let slot =
                    Value { offset: whole.offset + floats(first, whole.layout), shape, ..whole.clone() };
                first += self.shapes[input][1];
                let concat = graph.nodes()[input].layer().is::<Concat>();
                // as codes only what all its readers want so
                let fits = whole.levels.is_none() || whole.levels == self.levels[input];
                let written = written_by_step(input) || concat;
                if slots[input].is_none() && written && fits && input != graph.output() {
                    slots[input] = Some(slot);
                }
            }
            slots[group.head] = Some(whole);
        }
        (self.slots, self.storages) = (slots, storages);
    }

    fn value(&self, node: usize) -> Result<Value> {
        self.values[node]
            .clone()
            .ok_or_else(|| Error::Edit(format!("node {node} is read before it is computed")))
    }

    /// The value of a node in a layout, converted by a step of its own where needed.
    fn in_layout(&mut self, node: usize, name: &str, wanted: Layout) -> Result<Value> {
        let value = self.value(node)?;
        let wanted = for_rank(&value.shape, wanted);
        if let Some(same) = relabelled(&value, wanted) {
            return Ok(same);
        }
        if let Some((_, known)) = self.converted.iter().find(|(n, v)| *n == node && v.layout == wanted) {
            return Ok(known.clone());
        }
        if let (Some(levels), true) = (value.levels, wanted != Layout::Codes) {
            let floats = self.fresh(&value.shape, Layout::ChannelsLast);
            let kernel = Dequantize::new(&value.shape, levels);
            self.push(name, "layout", Box::new(kernel), vec![value], floats.clone(), 0)?;
            self.converted.push((node, floats.clone()));
            if wanted == Layout::ChannelsLast {
                return Ok(floats);
            }
            let output = self.fresh(&floats.shape, wanted);
            let kernel = Convert::new(&output.shape, wanted);
            self.push(name, "layout", Box::new(kernel), vec![floats], output.clone(), 0)?;
            self.converted.push((node, output.clone()));
            return Ok(output);
        }
        let output = self.fresh(&value.shape, wanted);
        let kernel = Convert::new(&value.shape, wanted);
        self.push(name, "layout", Box::new(kernel), vec![value], output.clone(), 0)?;
        self.converted.push((node, output.clone()));
        Ok(output)
    }

    fn push(
        &mut self,
        node: &str,
        kind: &str,
        kernel: Box<dyn Kernel>,
        inputs: Vec<Value>,
        output: Value,
        flops: u64,
    ) -> Result<()> {
        let parts = kernel.parts();
        let (pixels, channels) = Edge::rows(&output.shape, output.layout);
        if !cover(&parts, pixels, channels) {
            let why = format!(
                "the kernel `{}` of `{kind}` does not cut its output into disjoint parts",
                kernel.algorithm()
            );
            return Err(Error::Edit(why).at(node));
        }
        let (node, kind) = (node.to_string(), kind.to_string());
        self.drafts.push(Draft { node, kind, kernel, parts, inputs, output, flops });
        Ok(())
    }

    fn emit(&mut self, graph: &Graph, group: &Group, packs: &[Shared]) -> Result<()> {
        let node = &graph.nodes()[group.head];
        let layer = node.layer();
        if let Some(sources) = &group.gathers {
            return self.emit_gather(graph, group, sources);
        }
        if layer.is::<Identity>() || layer.is::<Dropout>() {
            self.values[group.head] = Some(self.value(node.inputs[0])?);
            return Ok(());
        }
        if layer.is::<Flatten>() || layer.is::<Reshape>() {
            let value = self.in_layout(node.inputs[0], &node.name, Layout::Planar)?;
            let shape = self.shapes[group.head].clone();
            self.values[group.head] = Some(Value { shape, ..value });
            return Ok(());
        }
        if channels_are_rows(&self.shapes[group.head]) {
            if let Some((first, _)) = layer.downcast_ref::<ChannelMap>().and_then(ChannelMap::run) {
                let value = self.in_layout(node.inputs[0], &node.name, Layout::ChannelsLast)?;
                let shape = self.shapes[group.head].clone();
                self.values[group.head] = Some(Value { shape, offset: value.offset + first, ..value });
                return Ok(());
            }
            if layer.is::<Concat>() {
                return self.emit_concat(graph, group);
            }
        }
        self.emit_layer(graph, group, packs)
    }

    /// Output channel by output channel from the channels of several inputs.
    fn emit_gather(&mut self, graph: &Graph, group: &Group, sources: &[usize]) -> Result<()> {
        let node = &graph.nodes()[group.last];
        let mut inputs = Vec::new();
        for &source in sources {
            inputs.push(self.in_layout(source, &node.name, Layout::ChannelsLast)?);
        }
        let map = node.layer().downcast_ref::<ChannelMap>().map(|m| m.map().to_vec()).unwrap_or_default();
        let widths: Vec<usize> = inputs.iter().map(|v| v.shape[1]).collect();
        let shape = self.shapes[group.last].clone();
        let kernel = Gather::new(self.isa, &shape, &map, &widths);
        let output = self.target(group.last, &shape, Layout::ChannelsLast);
        self.push(&node.name, node.layer().kind(), Box::new(kernel), inputs, output.clone(), 0)?;
        self.values[group.last] = Some(output);
        Ok(())
    }

    fn emit_concat(&mut self, graph: &Graph, group: &Group) -> Result<()> {
        let node = &graph.nodes()[group.head];
        let Some(whole) = self.slots[group.head].clone() else {
            return Err(Error::Edit("a concatenation without memory".into()).at(&node.name));
        };
        let mut first = 0;
        for &input in &node.inputs {
            let width = self.shapes[input][1];
            let value = self.value(input)?;
            let there = (value.storage, value.offset, value.layout)
                == (whole.storage, whole.offset + floats(first, whole.layout), whole.layout);
            if !there {
                let shape = self.shapes[input].clone();
                let offset = whole.offset + floats(first, whole.layout);
                let slot = Value { offset, shape: shape.clone(), ..whole.clone() };
                let value = self.in_layout(input, &node.name, Layout::ChannelsLast)?;
                let kernel: Box<dyn Kernel> = match whole.levels {
                    Some(levels) => Box::new(Quantize::new(&shape, levels)),
                    None => {
                        let identity: Vec<_> = (0..width).map(Some).collect();
                        Box::new(Gather::new(self.isa, &shape, &identity, &[width]))
                    }
                };
                self.push(&node.name, "concat", kernel, vec![value], slot, 0)?;
            }
            first += width;
        }
        self.values[group.last] = Some(whole);
        Ok(())
    }

    fn emit_layer(&mut self, graph: &Graph, group: &Group, packs: &[Shared]) -> Result<()> {
        let node = &graph.nodes()[group.head];
        let mut sources = node.inputs.clone();
        let edges = sources.iter().map(|&i| Ok(self.value(i)?.edge())).collect::<Result<Vec<_>>>()?;
        let output_shape = self.shapes[group.head].clone();
        let shapes: Vec<&[usize]> = edges.iter().map(|e| e.shape.as_slice()).collect();
        let flops = 2 * node.layer().cost(&shapes).map_err(|e| e.at(&node.name))?.macs.total();
        let at = Lowering {
            inputs: &edges,
            output: &output_shape,
            epilogue: &group.epilogue,
            levels: self.levels[group.last],
            isa: self.isa,
            exact: self.options.exact,
            choice: None,
            shared: &packs[group.head],
            layer: node.shared_layer(),
        };
        let lowered = match tune::lower(node, &at, self.options, self.decisions)? {
            Some(lowered) if lowered.inputs.len() == sources.len() => lowered,
            Some(lowered) => {
                let why =
                    format!("its kernel wants {} inputs, there are {}", lowered.inputs.len(), sources.len());
                return Err(Error::Edit(why).at(&node.name));
            }
            None => Lowered {
                kernel: Box::new(Infer::new(node.layer().clone_box(), &at)),
                inputs: vec![Layout::Planar; sources.len()],
                output: Layout::Planar,
                alternatives: Vec::new(),
            },
        };
        let mut layouts = lowered.inputs.clone();
        if let Some(residual) = group.residual {
            sources.push(residual);
            layouts.push(if lowered.output == Layout::Codes { Layout::ChannelsLast } else { lowered.output });
        }
        let mut inputs = Vec::with_capacity(sources.len());
        for (&source, &layout) in sources.iter().zip(&layouts) {
            inputs.push(self.in_layout(source, &node.name, layout)?);
        }
        let layout = for_rank(&output_shape, lowered.output);
        let output = self.target(group.last, &output_shape, layout);
        if output.layout == layout {
            self.push(&node.name, node.layer().kind(), lowered.kernel, inputs, output.clone(), flops)?;
        } else {
            let direct = self.fresh(&output_shape, layout);
            self.push(&node.name, node.layer().kind(), lowered.kernel, inputs, direct.clone(), flops)?;
            let direct = match (layout, output.levels) {
                (Layout::Planar, Some(_)) => {
                    let turned = self.fresh(&output_shape, Layout::ChannelsLast);
                    let kernel = Convert::new(&output_shape, Layout::ChannelsLast);
                    self.push(&node.name, "layout", Box::new(kernel), vec![direct], turned.clone(), 0)?;
                    turned
                }
                _ => direct,
            };
            let kernel: Box<dyn Kernel> = match output.levels {
                Some(levels) => Box::new(Quantize::new(&output_shape, levels)),
                None => Box::new(Convert::new(&output_shape, output.layout)),
            };
            self.push(&node.name, "layout", kernel, vec![direct], output.clone(), 0)?;
        }
        self.values[group.last] = Some(output);
        Ok(())
    }

    /// Where the value of a node is to be written: its place in a concatenation, or memory of its own.
    fn target(&mut self, node: usize, shape: &[usize], layout: Layout) -> Value {
        let layout = for_rank(shape, layout);
        match self.slots[node].clone() {
            Some(slot) => relabelled(&slot, layout).unwrap_or(slot),
            None => match (layout, self.levels[node]) {
                (Layout::Codes, Some(levels)) => {
                    self.storages += 1;
                    codes(self.storages - 1, shape, levels)
                }
                _ => self.fresh(shape, layout),
            },
        }
    }

    fn finish(mut self, output: usize, shape: &[usize]) -> Result<Plan> {
        let result = self.in_layout(output, "output", Layout::Planar)?;
        let mut sizes = vec![0; self.storages];
        let mut lives = vec![(usize::MAX, 0); self.storages];
        for (at, draft) in self.drafts.iter().enumerate() {
            for value in draft.inputs.iter().chain([&draft.output]) {
                sizes[value.storage] = sizes[value.storage].max(value.span());
                let (first, last) = lives[value.storage];
                lives[value.storage] = (first.min(at), last.max(at));
            }
        }
        lives[result.storage].1 = self.drafts.len();
        (sizes[0], lives[0]) = (0, (usize::MAX, 0));
        let (offsets, floats) = arena::place(&sizes, &lives);
        let place = |value: &Value| {
            let (pixels, channels) = value.rows();
            let external = value.storage == 0;
            Place {
                external,
                codes: if value.levels.is_some() { value.shape[1] } else { 0 },
                offset: offsets[value.storage] + value.offset,
                pixels,
                channels,
                pitch: value.pitch,
            }
        };
        let steps = self.drafts.into_iter().map(|d| Step {
            inputs: d.inputs.iter().map(place).collect(),
            output: place(&d.output),
            node: d.node,
            kind: d.kind,
            kernel: d.kernel,
            parts: d.parts,
            flops: d.flops,
        });
        let plan = Plan {
            steps: steps.collect(),
            input_shape: shape.to_vec(),
            output_shape: self.shapes[output].clone(),
            output: place(&result),
            arena: floats,
        };
        Ok(plan)
    }
}

/// Only rank 4 has several layouts.
fn for_rank(shape: &[usize], layout: Layout) -> Layout {
    if shape.len() == 4 { layout } else { Layout::Planar }
}

/// The same places under the name of another layout, if they are the same.
fn relabelled(value: &Value, layout: Layout) -> Option<Value> {
    if value.layout == Layout::Codes || layout == Layout::Codes {
        return (value.layout == layout).then(|| value.clone());
    }
    let gapless = value.pitch == Edge::rows(&value.shape, value.layout).1;
    let same = value.layout == layout
        || (Edge::is_either(&value.shape) && (gapless || value.shape[2..].iter().product::<usize>() == 1));
    let pitch = match gapless {
        true => Edge::rows(&value.shape, layout).1,
        false => value.pitch,
    };
    same.then(|| Value { layout, pitch, ..value.clone() })
}

/// A value alone in a storage.
fn gapless(storage: usize, shape: &[usize], layout: Layout) -> Value {
    let (_, pitch) = Edge::rows(shape, layout);
    Value { storage, offset: 0, pitch, layout, levels: None, shape: shape.to_vec() }
}

/// Codes alone in a storage.
fn codes(storage: usize, shape: &[usize], levels: Levels) -> Value {
    let (layout, levels) = (Layout::Codes, Some(levels));
    Value { storage, offset: 0, pitch: floats(shape[1], layout), layout, levels, shape: shape.to_vec() }
}

/// Floats that so many channels take.
fn floats(channels: usize, layout: Layout) -> usize {
    if layout == Layout::Codes { channels.div_ceil(4) } else { channels }
}

/// True if a group is but another name for values at hand.
fn computes_nothing(graph: &Graph, group: &Group, shape: &[usize]) -> bool {
    let layer = graph.nodes()[group.head].layer();
    let slice = layer.downcast_ref::<ChannelMap>().is_some_and(|m| m.run().is_some());
    layer.is::<Identity>()
        || layer.is::<Dropout>()
        || layer.is::<Flatten>()
        || layer.is::<Reshape>()
        || (channels_are_rows(shape) && group.gathers.is_none() && (layer.is::<Concat>() || slice))
}
