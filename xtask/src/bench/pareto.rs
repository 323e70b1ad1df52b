//! The Pareto front: what no other point beats in both accuracy and cost.

/// Positions of the points `(cost, accuracy)` that no other point dominates, by rising cost. A point dominates another
/// when it costs no more and is no less accurate, and is better in one of the two; equal points are both kept. Points with a NaN are never
/// on the front.
pub fn front(points: &[(f64, f64)]) -> Vec<usize> {
    let dominates = |a: (f64, f64), b: (f64, f64)| a.0 <= b.0 && a.1 >= b.1 && a != b;
    let mut on: Vec<usize> = (0..points.len())
        .filter(|&i| !points[i].0.is_nan() && !points[i].1.is_nan())
        .filter(|&i| !points.iter().any(|&p| dominates(p, points[i])))
        .collect();
    on.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0));
    on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dominated_points_are_left_out() {
        // 1 is beaten by 0 (as accurate, cheaper), 3 by 2 (cheaper and better)
        let points = [(10.0, 99.0), (20.0, 99.0), (5.0, 98.0), (7.0, 97.0), (30.0, 99.5)];
        assert_eq!(front(&points), [2, 0, 4]);
    }

    #[test]
    fn equal_points_are_both_on_it() {
        assert_eq!(front(&[(1.0, 1.0), (1.0, 1.0), (1.0, 0.5)]), [0, 1]);
    }

    #[test]
    fn nan_is_not() {
        assert_eq!(front(&[(f64::NAN, 1.0), (1.0, f64::NAN), (2.0, 0.1)]), [2]);
        assert!(front(&[]).is_empty());
    }
}
