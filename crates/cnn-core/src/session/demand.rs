//! Which values may be bytes: those that all readers round to one grid before all else.

use super::groups::Group;
use super::lowering::{Epilogue, Levels};
use crate::graph::Graph;
use crate::layers::{Concat, Dropout, Identity, MaxPool2d};
use crate::simd::Isa;

/// What the readers of a value ask for.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// Nobody reads it yet.
    Unread,
    Codes(Levels),
    Floats,
}

/// For each node, the grid that all who read its value put it on; `None` where one of them wants floats.
///
/// Rounding commutes with the largest of a window, and with a concatenation whose parts begin at whole floats: these pass on what is wanted
/// of them.
pub(super) fn levels(
    graph: &Graph,
    groups: &[Group],
    shapes: &[Vec<usize>],
    isa: Isa,
) -> Vec<Option<Levels>> {
    let nodes = graph.nodes();
    let mut wanted = vec![Wanted::Unread; nodes.len()];
    let want = |wanted: &mut Vec<Wanted>, node: usize, new: Wanted| {
        wanted[node] = match wanted[node] {
            Wanted::Unread => new,
            same if same == new => same,
            _ => Wanted::Floats,
        };
    };
    want(&mut wanted, 0, Wanted::Floats);
    want(&mut wanted, graph.output(), Wanted::Floats);
    for group in groups.iter().rev() {
        let node = &nodes[group.head];
        let layer = node.layer();
        let plain = group.epilogue == Epilogue::default() && group.gathers.is_none();
        let passes = if layer.is::<Concat>() {
            let before_last = node.inputs.iter().rev().skip(1);
            let whole_floats = before_last.map(|&i| &shapes[i]).all(|s| s.len() == 4 && s[1] % 4 == 0);
            if !(plain && whole_floats) {
                wanted[group.last] = Wanted::Floats;
            }
            true
        } else {
            plain && (layer.is::<MaxPool2d>() || layer.is::<Identity>() || layer.is::<Dropout>())
        };
        let of_output = wanted[group.last];
        let of_inputs = match layer.reads(isa) {
            Some(levels) => Wanted::Codes(levels),
            None if passes => of_output,
            None => Wanted::Floats,
        };
        let sources = group.gathers.as_ref().unwrap_or(&node.inputs);
        for &input in sources {
            let images = shapes[input].len() == 4;
            want(&mut wanted, input, if images { of_inputs } else { Wanted::Floats });
        }
        if let Some(residual) = group.residual {
            want(&mut wanted, residual, Wanted::Floats);
        }
    }
    let codes = |wanted: &Wanted| match wanted {
        Wanted::Codes(levels) => Some(*levels),
        _ => None,
    };
    wanted.iter().map(codes).collect()
}
