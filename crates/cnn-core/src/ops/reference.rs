//! Naive loops with f64 sums: the oracle of the tests.

use super::conv::ConvGeometry;

/// Calls `f(x index, w index, y index)` for every multiplication of the convolution.
pub fn for_each_product(g: &ConvGeometry, mut f: impl FnMut(usize, usize, usize)) {
    let (oh, ow) = (g.out_h(), g.out_w());
    let (cg, mg) = (g.c / g.groups, g.m / g.groups);
    for n in 0..g.n {
        for m in 0..g.m {
            for y in 0..oh {
                for x in 0..ow {
                    for c in 0..cg {
                        for kh in 0..g.kernel[0] {
                            for kw in 0..g.kernel[1] {
                                let iy = (y * g.stride[0] + kh * g.dilation[0])
                                    .checked_sub(g.pad[0])
                                    .filter(|&i| i < g.h);
                                let ix = (x * g.stride[1] + kw * g.dilation[1])
                                    .checked_sub(g.pad[1])
                                    .filter(|&i| i < g.w);
                                if let (Some(iy), Some(ix)) = (iy, ix) {
                                    let ci = m / mg * cg + c;
                                    f(
                                        ((n * g.c + ci) * g.h + iy) * g.w + ix,
                                        ((m * cg + c) * g.kernel[0] + kh) * g.kernel[1] + kw,
                                        ((n * g.m + m) * oh + y) * ow + x,
                                    );
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn finish(sums: Vec<f64>, out: &mut [f32]) {
    for (o, s) in out.iter_mut().zip(sums) {
        *o = s as f32;
    }
}

/// Convolution, see [`super::conv::conv_forward`].
pub fn conv_forward(g: &ConvGeometry, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    let plane = g.out_h() * g.out_w();
    let mut s: Vec<f64> = (0..y.len()).map(|i| bias.map_or(0.0, |b| f64::from(b[i / plane % g.m]))).collect();
    for_each_product(g, |xi, wi, yi| s[yi] += f64::from(x[xi]) * f64::from(w[wi]));
    finish(s, y);
}

/// Gradient to the input, see [`super::conv::conv_backward_input`].
pub fn conv_backward_input(g: &ConvGeometry, w: &[f32], dy: &[f32], dx: &mut [f32]) {
    let mut s = vec![0.0; dx.len()];
    for_each_product(g, |xi, wi, yi| s[xi] += f64::from(w[wi]) * f64::from(dy[yi]));
    finish(s, dx);
}

/// Gradient to the weights, see [`super::conv::conv_backward_weights`].
pub fn conv_backward_weights(g: &ConvGeometry, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    let mut s = vec![0.0; dw.len()];
    for_each_product(g, |xi, wi, yi| s[wi] += f64::from(x[xi]) * f64::from(dy[yi]));
    finish(s, dw);
}

/// Gradient to the bias, see [`super::conv::conv_backward_bias`].
pub fn conv_backward_bias(g: &ConvGeometry, dy: &[f32], db: &mut [f32]) {
    let plane = g.out_h() * g.out_w();
    let mut s = vec![0.0; db.len()];
    for (i, v) in dy.iter().enumerate() {
        s[i / plane % g.m] += f64::from(*v);
    }
    finish(s, db);
}
