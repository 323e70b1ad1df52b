//! Networks that come quantized, `quant.qdq`: 8-bit layers for what lies on grids already.

use crate::error::Error;
use crate::grid::Grid;
use crate::int8::pack_ranges;
use crate::int8_range::{INT8_RANGE, Int8Range, WeightGrid};
use crate::targets;
use cnn_core::compress::{read_config, write_config};
use cnn_core::layers::FakeQuantize;
use cnn_core::{Compressor, Config, Graph, Result, Run, Selection, Tensor};
use serde::{Deserialize, Serialize};

/// How far a weight may be from a multiple of the step, in steps.
const TOLERANCE: f32 = 1e-3;

/// Makes integer layers of the convolutions and linear layers of a network that others quantized: those that read values on a grid
/// ([`FakeQuantize`], as `QuantizeLinear` and `DequantizeLinear` come in from ONNX) and whose weights are multiples of a step in each output
/// channel. The network computes the same, up to the rounding of biases to whole products of steps; other layers stay as they are.
///
/// ```
/// use cnn_core::layers::{Conv2d, ConvOptions, FakeQuantize};
/// use cnn_core::tensor::tensor;
/// use cnn_core::testing::stripes;
/// use cnn_core::train::TrainSettings;
/// use cnn_core::{Compressor, Graph, Registry, Run};
/// use cnn_quant::{Conv2dI8, QdqLayers};
///
/// let mut graph = Graph::new(&[1, 4, 4]);
/// graph.push("x", FakeQuantize::new(vec![0.1], vec![128], 0, 0, 255)?)?;
/// let w = tensor(&[1, 1, 2, 2], vec![0.5, -0.25, 0.0, 31.75])?;
/// graph.push("conv", Conv2d::new(w, None, ConvOptions::default())?)?;
/// let data = stripes(4, [1, 4, 4], 2, 0)?;
/// let registry = Registry::core();
/// let method = QdqLayers::default();
/// method.apply(&mut graph, &mut Run::new(&data, &data, TrainSettings::default(), &registry))?;
/// method.pack(&mut graph)?;
/// let conv = graph.layer::<Conv2dI8>("conv")?.map(|conv| conv.weights().levels().to_vec());
/// assert_eq!(conv, Some(vec![2, -1, 0, 127]));
/// # Ok::<(), cnn_core::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QdqLayers {
    /// Which layers; all convolutions and linear layers by default.
    pub layers: Selection,
}

impl QdqLayers {
    /// Name of the method.
    pub const NAME: &'static str = "quant.qdq";

    pub(crate) fn build(config: Config) -> Result<Box<dyn Compressor>> {
        Ok(Box::new(read_config::<QdqLayers>(QdqLayers::NAME, config)?))
    }
}

impl Compressor for QdqLayers {
    fn name(&self) -> String {
        QdqLayers::NAME.to_string()
    }

    fn config(&self) -> Config {
        write_config(self)
    }

    fn apply(&self, graph: &mut Graph, _run: &mut Run<'_>) -> Result<()> {
        let found = targets::select(graph, QdqLayers::NAME, &self.layers, INT8_RANGE)?;
        graph.edit(|graph| {
            let mut made = Vec::new();
            for at in found {
                let node = &graph.nodes()[at];
                let Some(input) = node.inputs.first().and_then(|&i| grid_of_input(graph, i)) else {
                    continue;
                };
                let Some(range) = targets::params(node.layer()).first().and_then(|w| range(w.value(), input))
                else {
                    continue;
                };
                targets::params_mut(graph.layer_at_mut(at))[0].constrain(Box::new(range));
                made.push(at);
            }
            if made.is_empty() {
                return Err(Error::NothingQuantized.into());
            }
            // grids that only these layers read, which now round by themselves
            let nodes = graph.nodes();
            let needless = |at: usize| {
                let mut readers = nodes.iter().enumerate().filter(|(_, n)| n.inputs.contains(&at));
                at != graph.output()
                    && grid_of_input(graph, at).is_some()
                    && readers.all(|(r, _)| made.contains(&r))
            };
            let names: Vec<String> =
                (0..nodes.len()).filter(|&at| needless(at)).map(|at| nodes[at].name.clone()).collect();
            names.iter().try_for_each(|name| graph.remove(name))
        })
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        pack_ranges(graph)
    }
}

/// The grid that a node puts values on, if that is all it does and bytes hold it.
fn grid_of_input(graph: &Graph, at: usize) -> Option<Grid> {
    let (step, [low, high]) = graph.nodes()[at].layer().downcast_ref::<FakeQuantize>()?.uniform()?;
    let (low, high) = (i16::try_from(low).ok()?, i16::try_from(high).ok()?);
    (low <= 0 && high >= 0 && low < high && high - low < 256).then_some(Grid { step, low, high })
}

/// The constraint whose grids hold the weights exactly; `None` if there is none.
fn range(weight: &Tensor, input: Grid) -> Option<Int8Range> {
    let rows = weight.outer_iter().map(|row| steps(&row.iter().copied().collect::<Vec<f32>>()));
    let found: Vec<(f32, [i16; 2])> = rows.collect::<Option<_>>()?;
    let symmetric = found.iter().all(|(_, [low, high])| *low >= -127 && *high <= 127);
    let grids = found.into_iter().map(|(step, [low, _])| match symmetric {
        true => Grid { step, low: -127, high: 127 },
        false => Grid { step, low, high: low + 255 },
    });
    let kind = if symmetric { WeightGrid::Symmetric } else { WeightGrid::Affine };
    Some(Int8Range::on_grids(kind, 8, grids.collect(), input))
}

/// The largest step of which all values are multiples, and the ends of the levels; at most 256 of them.
fn steps(values: &[f32]) -> Option<(f32, [i16; 2])> {
    let most = values.iter().fold(0f32, |most, v| most.max(v.abs()));
    if most == 0.0 {
        return Some((1.0, [0, 0]));
    }
    (1..=255u8).find_map(|count| {
        let step = most / f32::from(count);
        let level = |v: f32| (v / step).round_ties_even();
        let whole = values.iter().all(|&v| (v / step - level(v)).abs() < TOLERANCE);
        let (low, high) = values.iter().fold((0f32, 0f32), |(l, h), &v| (l.min(level(v)), h.max(level(v))));
        (whole && high - low <= 255.0).then_some((step, [low as i16, high as i16]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn levels_are_found_again(levels in prop::collection::vec(-127i16..=127, 1..40), step in 1e-4f32..3.0) {
            let values: Vec<f32> = levels.iter().map(|&l| step * f32::from(l)).collect();
            let (found, [low, high]) = steps(&values).unwrap();
            let grid = Grid { step: found, low: low.min(-127), high: high.max(127) };
            for v in values {
                prop_assert!((grid.round(v) - v).abs() <= 1e-5 * v.abs());
            }
        }
    }

    #[test]
    fn what_lies_on_no_grid() {
        let values: Vec<f32> = (1..40).map(|i| (i as f32).sqrt()).collect();
        assert_eq!(steps(&values), None);
        assert_eq!(steps(&[0.0, 0.0]), Some((1.0, [0, 0])));
        // 300 levels are too many
        assert_eq!(steps(&[-150.0, 149.0, 1.0, -2.0, 3.0, 7.0]), None);
        // unsigned bytes with a zero point at one end
        assert_eq!(steps(&[-200.0, 55.0, 1.0]), Some((1.0, [-200, 55])));
    }
}
