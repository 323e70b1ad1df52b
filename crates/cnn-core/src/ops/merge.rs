//! Elementwise addition and multiplication of two tensors.
//!
//! Multiplication broadcasts: an axis of size 1 on one side is repeated. The gradient of a repeated
//! axis is summed: `y = a b`, `da = Σ dy b`, `db = Σ dy a`.

use super::elementwise::zip_in_place;
use super::multiversion::multiversion;
use super::parallel::for_each_task;
use super::reduce::sum_zip;

/// `a += b`, same shape. The gradient of both is `dy` itself.
pub fn add_in_place(a: &mut [f32], b: &[f32]) {
    zip_in_place(a, b, |a, b| a + b);
}

/// The shape of `a b`: axes must be equal or 1 on one side.
pub fn broadcast_shape(a: [usize; 4], b: [usize; 4]) -> [usize; 4] {
    std::array::from_fn(|i| {
        assert!(a[i] == b[i] || a[i] == 1 || b[i] == 1, "axis {i}: {} and {}", a[i], b[i]);
        if a[i] == 1 { b[i] } else { a[i] }
    })
}

/// `y = a b` with broadcasting; `y` has shape [`broadcast_shape`].
pub fn mul(a: &[f32], a_shape: [usize; 4], b: &[f32], b_shape: [usize; 4], y: &mut [f32]) {
    let shape = broadcast_shape(a_shape, b_shape);
    assert_eq!(a.len(), size(a_shape));
    assert_eq!(b.len(), size(b_shape));
    assert_eq!(y.len(), size(shape));
    let rows = Rows::new(shape, [a_shape, b_shape]);
    for_each_task(y, rows.len, rows.len, |first, y| {
        for (row, y) in y.chunks_exact_mut(rows.len).enumerate() {
            let [a_at, b_at] = rows.starts(first + row);
            mul_row(rows.side(a, 0, a_at), rows.side(b, 1, b_at), y);
        }
    });
}

/// The gradient of one side of [`mul`]: `target = Σ dy other`, summed over the axes where
/// `target_shape` is repeated.
pub fn mul_grad_one(
    dy: &[f32],
    (other, other_shape): (&[f32], [usize; 4]),
    target_shape: [usize; 4],
    target: &mut [f32],
) {
    let shape = broadcast_shape(target_shape, other_shape);
    assert_eq!(dy.len(), size(shape));
    assert_eq!(other.len(), size(other_shape));
    assert_eq!(target.len(), size(target_shape));
    if target_shape == shape {
        return mul(dy, shape, other, other_shape, target);
    }
    // Images are independent unless the batch axis is summed; then one task sums them in order.
    let images = target_shape[0].max(1);
    let per_image = |len: usize| len / images;
    let (dy_size, target_size) = (per_image(dy.len()), per_image(target.len()));
    let image_shape = |mut shape: [usize; 4]| {
        if images > 1 {
            shape[0] = 1;
        }
        shape
    };
    let other_size = if other_shape[0] == images { per_image(other.len()) } else { 0 };
    let shapes = [shape, target_shape, other_shape].map(image_shape);
    for_each_task(target, target_size, dy_size, |first, target| {
        for (i, target) in target.chunks_exact_mut(target_size).enumerate() {
            let image = first + i;
            let dy = &dy[image * dy_size..][..dy_size];
            let other = &other[image * other_size..][..size(shapes[2])];
            sum_products(dy, other, shapes, target);
        }
    });
}

/// `target = Σ dy other`, sums kept in f64.
fn sum_products(
    dy: &[f32],
    other: &[f32],
    [shape, target_shape, other_shape]: [[usize; 4]; 3],
    target: &mut [f32],
) {
    let rows = Rows::new(shape, [target_shape, other_shape]);
    let mut sums = vec![0.0f64; target.len()];
    for (row, dy) in dy.chunks_exact(rows.len).enumerate() {
        let [t, o] = rows.starts(row);
        let other = rows.side(other, 1, o);
        if rows.varies[0] {
            add_products(dy, other, &mut sums[t..][..rows.len]);
        } else {
            sums[t] += dot(dy, other);
        }
    }
    for (target, sum) in target.iter_mut().zip(sums) {
        *target = sum as f32;
    }
}

fn size(shape: [usize; 4]) -> usize {
    shape.iter().product()
}

/// The broadcast tensor seen as rows along which each of two operands either varies with step 1 or
/// is a single value. Trailing axes on which both operands behave alike are one row.
struct Rows {
    /// Elements per row.
    len: usize,
    /// Whether each operand varies along the row.
    varies: [bool; 2],
    /// Sizes of the axes before the row.
    outer: Vec<usize>,
    /// Step of each operand along the outer axes, 0 where repeated.
    steps: [Vec<usize>; 2],
}

impl Rows {
    fn new(shape: [usize; 4], operands: [[usize; 4]; 2]) -> Self {
        let mut axis = 4;
        let mut len = 1;
        let mut varies = [true; 2];
        while axis > 0 {
            let here = operands.map(|s| s[axis - 1] != 1);
            // An axis of size 1 fits any row.
            if shape[axis - 1] != 1 {
                if len > 1 && here != varies {
                    break;
                }
                varies = here;
                len *= shape[axis - 1];
            }
            axis -= 1;
        }
        let steps = operands
            .map(|s| (0..axis).map(|i| if s[i] == 1 { 0 } else { s[i + 1..].iter().product() }).collect());
        Self { len, varies, outer: shape[..axis].to_vec(), steps }
    }

    /// Where row number `row` starts in each operand.
    fn starts(&self, mut row: usize) -> [usize; 2] {
        let mut starts = [0; 2];
        for axis in (0..self.outer.len()).rev() {
            let i = row % self.outer[axis];
            row /= self.outer[axis];
            starts[0] += i * self.steps[0][axis];
            starts[1] += i * self.steps[1][axis];
        }
        starts
    }

    /// The part of an operand in one row: `len` values, or one if it is repeated.
    fn side<'a>(&self, operand: &'a [f32], which: usize, start: usize) -> &'a [f32] {
        &operand[start..][..if self.varies[which] { self.len } else { 1 }]
    }
}

multiversion! {
    /// `y = a b`, where a side of length 1 is repeated.
    fn mul_row(a: &[f32], b: &[f32], y: &mut [f32]) {
        match (a, b) {
            (&[a], b) => {
                for (y, &b) in y.iter_mut().zip(b) {
                    *y = a * b;
                }
            }
            (a, &[b]) => {
                for (y, &a) in y.iter_mut().zip(a) {
                    *y = a * b;
                }
            }
            (a, b) => {
                for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                    *y = a * b;
                }
            }
        }
    }
}

multiversion! {
    /// `sums += dy other`, where an `other` of length 1 is repeated.
    fn add_products(dy: &[f32], other: &[f32], sums: &mut [f64]) {
        if let &[other] = other {
            for (sum, &dy) in sums.iter_mut().zip(dy) {
                *sum += f64::from(dy) * f64::from(other);
            }
        } else {
            for ((sum, &dy), &other) in sums.iter_mut().zip(dy).zip(other) {
                *sum += f64::from(dy) * f64::from(other);
            }
        }
    }
}

multiversion! {
    /// `Σ dy other`, where an `other` of length 1 is repeated.
    fn dot(dy: &[f32], other: &[f32]) -> f64 {
        if let &[other] = other {
            sum_zip(dy, dy, |dy, _| dy) * f64::from(other)
        } else {
            sum_zip(dy, other, |dy, other| dy * other)
        }
    }
}
