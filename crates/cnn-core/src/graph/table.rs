//! `Display`: a table with a row per node.

use super::Graph;
use std::fmt::{Display, Formatter};

impl Display for Graph {
    /// Name, kind, output shape for one image, parameters and multiply-adds of every node, and the sums.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let (shapes, costs) = match (self.shapes(1), self.costs()) {
            (Ok(shapes), Ok(costs)) => (shapes, costs),
            (Err(e), _) | (_, Err(e)) => return write!(f, "an invalid graph: {e}"),
        };
        let wide = self.nodes.iter().map(|n| n.name.len()).chain([5]).max().unwrap_or(5);
        let kinds = self.nodes.iter().map(|n| n.layer().kind().len()).chain([4]).max().unwrap_or(4);
        writeln!(
            f,
            "{:wide$}  {:kinds$}  {:>18}  {:>12}  {:>15}",
            "node", "kind", "output", "params", "multiply-adds"
        )?;
        for ((node, shape), cost) in self.nodes.iter().zip(&shapes).zip(&costs) {
            let shape = shape[1..].iter().map(ToString::to_string).collect::<Vec<_>>().join(" x ");
            let (kind, params, macs) = (node.layer().kind(), cost.params, cost.macs.total());
            writeln!(f, "{:wide$}  {kind:kinds$}  {shape:>18}  {params:>12}  {macs:>15}", node.name)?;
        }
        let total = costs.into_iter().sum::<crate::Cost>();
        let (params, macs) = (total.params, total.macs.total());
        write!(f, "{:wide$}  {:kinds$}  {:>18}  {params:>12}  {macs:>15}", "total", "", "")
    }
}
