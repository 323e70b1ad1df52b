//! From planar to channels-last and back.

use super::kernel::{Inputs, Kernel, Part, Target, parts_by_pixels};
use super::lowering::Layout;
use crate::Result;
use crate::kernels::layout::Transpose2d;
use crate::simd::Isa;

/// Values that a part moves.
const PART: usize = 1 << 15;

/// Copies `[n, c, h, w]` into the other layout.
#[derive(Debug)]
pub(super) struct Convert {
    isa: Isa,
    nchw: [usize; 4],
    /// From channels-last; else to it.
    planar: bool,
}

impl Convert {
    pub fn new(shape: &[usize], to: Layout) -> Convert {
        let nchw = match *shape {
            [n, c, h, w] => [n, c, h, w],
            _ => [shape[0], shape[1..].iter().product(), 1, 1],
        };
        Convert { isa: Isa::active(), nchw, planar: to == Layout::Planar }
    }
}

impl Kernel for Convert {
    fn algorithm(&self) -> &'static str {
        match self.planar {
            true => "to planar",
            false => "to channels-last",
        }
    }

    fn parts(&self) -> Vec<Part> {
        let [n, c, h, w] = self.nchw;
        match self.planar {
            false => parts_by_pixels(n * h * w, c, (PART / c).max(1)),
            true => {
                // a part is whole planes of one image
                let planes = (PART / (h * w)).clamp(1, c);
                let pieces = c.div_ceil(planes);
                (0..n * pieces)
                    .map(|i| {
                        let (image, piece) = (i / pieces, i % pieces);
                        let channels = piece * c / pieces * h * w..(piece + 1) * c / pieces * h * w;
                        Part { pixels: image..image + 1, channels }
                    })
                    .collect()
            }
        }
    }

    fn run(&self, inputs: Inputs<'_>, out: Target<'_>, _scratch: &mut [f32]) -> Result<()> {
        let [_, c, h, w] = self.nchw;
        let (x, part, plane) = (inputs.get(0), out.part(), h * w);
        match self.planar {
            false => {
                let mut p = part.pixels.start;
                while p < part.pixels.end {
                    let (image, inside) = (p / plane, p % plane);
                    let count = (plane - inside).min(part.pixels.end - p);
                    self.isa.run(Transpose2d {
                        src: x.as_ptr().wrapping_add(image * x.pitch + inside),
                        src_ld: plane,
                        rows: c,
                        cols: count,
                        dst: out.as_ptr().wrapping_add(p * out.pitch()),
                        dst_ld: out.pitch(),
                    });
                    p += count;
                }
            }
            true => {
                let (image, first) = (part.pixels.start, part.channels.start / plane);
                self.isa.run(Transpose2d {
                    src: x.as_ptr().wrapping_add(image * plane * x.pitch + first),
                    src_ld: x.pitch,
                    rows: plane,
                    cols: part.channels.len() / plane,
                    dst: out.as_ptr().wrapping_add(image * out.pitch() + first * plane),
                    dst_ld: plane,
                });
            }
        }
        Ok(())
    }
}
