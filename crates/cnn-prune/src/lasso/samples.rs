//! What a layer reads and what it should give, at random positions of training images.

use cnn_core::layers::{BatchNorm, Conv2d};
use cnn_core::{Error, Graph, Result, Tensor};
use nalgebra::DMatrix;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Scales of a normalization below this are not divided by.
const SMALL: f32 = 1e-3;

/// Sums over the samples for `y = W' x`.
pub(super) struct Sums {
    /// `X'X`, of `channels x kh x kw` rows and columns.
    pub xx: DMatrix<f64>,
    /// `X'Y`, a column for each filter.
    pub xy: DMatrix<f64>,
}

/// A convolution in the network as it is now and as it was.
pub(super) struct Place<'a> {
    pub graph: &'a Graph,
    pub original: &'a Graph,
    /// Name of the convolution, in both.
    pub name: &'a str,
}

impl Place<'_> {
    /// Sums over `positions` outputs of each image. The target is the output of the original convolution; for the last one of a
    /// residual branch it also makes up for what the shortcut has lost, `Y_branch + Y_shortcut - Y'_shortcut` (He, Zhang & Sun 2017,
    /// section 3.3).
    pub fn sums(&self, batches: &[Tensor], positions: usize, seed: u64) -> Result<Sums> {
        let at = self.graph.find(self.name)?;
        let conv = self.conv()?;
        let input = self.graph.nodes()[self.graph.nodes()[at].inputs[0]].name.clone();
        let shortcut = self.shortcut()?;
        let mut now = vec![input.as_str()];
        let mut then = vec![self.name];
        if let Some((name, _)) = &shortcut {
            now.push(name);
            then.push(name);
        }
        let [m, c, kh, kw] = *conv.weight().shape() else {
            return Err(Error::Shape("the weights of a convolution have four axes".into()));
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rows = c * kh * kw;
        let mut sums = Sums { xx: DMatrix::zeros(rows, rows), xy: DMatrix::zeros(rows, m) };
        for images in batches {
            let (mut x, mut y): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
            let now = self.graph.capture(&now, images)?;
            let then = self.original.capture(&then, images)?;
            let g = conv.geometry(now[0].shape())?;
            for image in 0..g.n {
                for _ in 0..positions {
                    let (oy, ox) = (rng.random_range(0..g.out_h()), rng.random_range(0..g.out_w()));
                    for c in 0..c {
                        for (ky, kx) in (0..kh * kw).map(|k| (k / kw, k % kw)) {
                            let iy = (oy * g.stride[0] + ky * g.dilation[0]).checked_sub(g.pad[0]);
                            let ix = (ox * g.stride[1] + kx * g.dilation[1]).checked_sub(g.pad[1]);
                            let inside = iy.zip(ix).filter(|&(iy, ix)| iy < g.h && ix < g.w);
                            x.push(inside.map_or(0.0, |(iy, ix)| f64::from(now[0][[image, c, iy, ix]])));
                        }
                    }
                    for f in 0..m {
                        let place = [image, f, oy, ox];
                        let bias = conv.bias().map_or(0.0, |b| b.value()[f]);
                        let mut target = then[0][place] - bias;
                        if let Some((_, scale)) = &shortcut
                            && scale[f].abs() > SMALL
                        {
                            target += (then[1][place] - now[1][place]) / scale[f];
                        }
                        y.push(f64::from(target));
                    }
                }
            }
            let samples = y.len() / m;
            // nalgebra's matrices are by columns: these are the transposes
            let xt = DMatrix::from_vec(rows, samples, x);
            let yt = DMatrix::from_vec(m, samples, y);
            sums.xx.gemm(1.0, &xt, &xt.transpose(), 1.0);
            sums.xy.gemm(1.0, &xt, &yt.transpose(), 1.0);
        }
        Ok(sums)
    }

    /// The convolution as it is now.
    pub fn conv(&self) -> Result<&Conv2d> {
        let conv = self.graph.layer::<Conv2d>(self.name)?;
        conv.ok_or_else(|| Error::Edit(format!("`{}` is not a convolution", self.name)))
    }

    /// The other input of the addition that the convolution's output, normalized or not, goes to alone; and the scale of the
    /// normalization.
    fn shortcut(&self) -> Result<Option<(String, Vec<f32>)>> {
        let nodes = self.graph.nodes();
        let only_reader = |at: usize| {
            let mut readers = (0..nodes.len()).filter(|&r| nodes[r].inputs.contains(&at));
            let first = readers.next();
            first.filter(|_| readers.next().is_none())
        };
        let mut at = self.graph.find(self.name)?;
        let mut scale = vec![1.0; self.conv()?.filters()];
        loop {
            let Some(reader) = only_reader(at) else { return Ok(None) };
            let layer = nodes[reader].layer();
            if let Some(norm) = layer.downcast_ref::<BatchNorm>() {
                scale = norm.scale_shift()?.0;
                at = reader;
                continue;
            }
            let other = nodes[reader].inputs.iter().find(|&&i| i != at);
            return Ok(match (layer.is::<cnn_core::layers::Add>(), other) {
                (true, Some(&other)) if self.original.find(&nodes[other].name).is_ok() => {
                    Some((nodes[other].name.clone(), scale))
                }
                _ => None,
            });
        }
    }
}
