//! Resizing of images: each axis is a sparse matrix from input to output positions.

use super::parallel::for_each_task;

/// How a value between input positions is made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ResizeMode {
    /// The nearest position.
    Nearest(NearestRounding),
    /// Between the two neighbours, by distance.
    Linear,
    /// Of four neighbours, with the cubic of coefficient `a` (Keys 1981, eq. 4; -0.75 in PyTorch).
    Cubic(f32),
}

/// Which position is nearest to a coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NearestRounding {
    /// Halves go down.
    PreferFloor,
    /// Halves go up.
    PreferCeil,
    /// Always down.
    Floor,
    /// Always up.
    Ceil,
}

/// Where an output position lies in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResizeCoordinates {
    /// `(x + 0.5) / scale - 0.5`
    HalfPixel,
    /// The same, but 0 when there is only one output position.
    PytorchHalfPixel,
    /// `x (inputs - 1) / (outputs - 1)`
    AlignCorners,
    /// `x / scale`
    Asymmetric,
}

/// For each output position the input positions it reads, with their weights.
pub type Taps = Vec<Vec<(usize, f32)>>;

/// The taps of one axis. Beyond the ends the last value is repeated.
pub fn taps(
    inputs: usize,
    outputs: usize,
    scale: f32,
    mode: ResizeMode,
    coordinates: ResizeCoordinates,
) -> Taps {
    // the nearest position hangs on the last bit: 2 of 6 by a scale of 0.33333334 lies at 3 in 32 bits, as ONNX Runtime computes
    // it, and just below in 64
    let narrow = |o: usize| {
        let o = o as f32;
        match coordinates {
            ResizeCoordinates::PytorchHalfPixel | ResizeCoordinates::AlignCorners if outputs == 1 => 0.0,
            ResizeCoordinates::HalfPixel | ResizeCoordinates::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            ResizeCoordinates::AlignCorners => o * (inputs - 1) as f32 / (outputs - 1) as f32,
            ResizeCoordinates::Asymmetric => o / scale,
        }
    };
    let scale = f64::from(scale);
    let coordinate = |o: usize| {
        let o = o as f64;
        match coordinates {
            ResizeCoordinates::PytorchHalfPixel if outputs == 1 => 0.0,
            ResizeCoordinates::HalfPixel | ResizeCoordinates::PytorchHalfPixel => (o + 0.5) / scale - 0.5,
            ResizeCoordinates::AlignCorners if outputs == 1 => 0.0,
            ResizeCoordinates::AlignCorners => o * (inputs - 1) as f64 / (outputs - 1) as f64,
            ResizeCoordinates::Asymmetric => o / scale,
        }
    };
    let at = |position: f64| position.clamp(0.0, (inputs - 1) as f64) as usize;
    let tap = |o: usize| {
        let x = match mode {
            ResizeMode::Nearest(_) => f64::from(narrow(o)),
            ResizeMode::Linear | ResizeMode::Cubic(_) => coordinate(o),
        };
        let floor = x.floor();
        let t = (x - floor) as f32;
        match mode {
            ResizeMode::Nearest(rounding) => {
                let nearest = match rounding {
                    NearestRounding::PreferFloor => (x - 0.5).ceil(),
                    NearestRounding::PreferCeil => (x + 0.5).floor(),
                    NearestRounding::Floor => floor,
                    NearestRounding::Ceil => x.ceil(),
                };
                vec![(at(nearest), 1.0)]
            }
            ResizeMode::Linear => vec![(at(floor), 1.0 - t), (at(floor + 1.0), t)],
            ResizeMode::Cubic(a) => {
                let weight = |d: f32| match d.abs() {
                    d if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
                    d => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
                };
                let neighbours = [-1.0, 0.0, 1.0, 2.0];
                neighbours.iter().map(|&k| (at(floor + k), weight(t - k as f32))).collect()
            }
        }
    };
    (0..outputs).map(tap).collect()
}

/// `Y = R X C^T` on each plane: `x: [planes, h, w]`, `y: [planes, rows, columns]`.
pub fn resize(x: &[f32], [h, w]: [usize; 2], rows: &Taps, columns: &Taps, y: &mut [f32]) {
    let [oh, ow] = [rows.len(), columns.len()];
    for_each_task(y, oh * ow, h * ow + oh * ow, |first, y| {
        let mut narrow = vec![0.0; h * ow];
        for (y, x) in y.chunks_exact_mut(oh * ow).zip(x[first * h * w..].chunks_exact(h * w)) {
            for (narrow, x) in narrow.chunks_exact_mut(ow).zip(x.chunks_exact(w)) {
                for (out, taps) in narrow.iter_mut().zip(columns) {
                    *out = taps.iter().map(|&(i, weight)| weight * x[i]).sum();
                }
            }
            for (y, taps) in y.chunks_exact_mut(ow).zip(rows) {
                y.fill(0.0);
                for &(i, weight) in taps {
                    y.iter_mut().zip(&narrow[i * ow..][..ow]).for_each(|(y, &v)| *y += weight * v);
                }
            }
        }
    });
}

/// The gradient of [`resize`]: `dX = R^T dY C`.
pub fn resize_backward(dy: &[f32], [h, w]: [usize; 2], rows: &Taps, columns: &Taps, dx: &mut [f32]) {
    let [oh, ow] = [rows.len(), columns.len()];
    for_each_task(dx, h * w, h * ow + oh * ow, |first, dx| {
        let mut narrow = vec![0.0; h * ow];
        for (dx, dy) in dx.chunks_exact_mut(h * w).zip(dy[first * oh * ow..].chunks_exact(oh * ow)) {
            narrow.fill(0.0);
            for (dy, taps) in dy.chunks_exact(ow).zip(rows) {
                for &(i, weight) in taps {
                    narrow[i * ow..][..ow].iter_mut().zip(dy).for_each(|(v, &dy)| *v += weight * dy);
                }
            }
            dx.fill(0.0);
            for (dx, narrow) in dx.chunks_exact_mut(w).zip(narrow.chunks_exact(ow)) {
                for (&v, taps) in narrow.iter().zip(columns) {
                    taps.iter().for_each(|&(i, weight)| dx[i] += weight * v);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole positions of PyTorch's nearest, `floor(o inputs / outputs)`, also where the scale was rounded up.
    #[test]
    fn the_nearest_position_is_that_of_32_bits() {
        for (inputs, outputs) in
            [(6, 2), (14, 6), (56, 24), (24, 8), (9, 3), (15, 5), (10, 2), (4, 8), (3, 9)]
        {
            let scale = outputs as f32 / inputs as f32;
            let mode = ResizeMode::Nearest(NearestRounding::Floor);
            let made = taps(inputs, outputs, scale, mode, ResizeCoordinates::Asymmetric);
            for (o, tap) in made.iter().enumerate() {
                assert_eq!(tap[..], [(o * inputs / outputs, 1.0)], "{o} of {inputs} to {outputs}");
            }
        }
    }
}
