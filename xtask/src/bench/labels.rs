//! Where the labels of points go, so that they cover neither points nor lines nor each other.

/// A rectangle in pixels; `y` grows downwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Box2 {
    /// Smallest x.
    pub left: i32,
    /// Smallest y.
    pub top: i32,
    /// Largest x.
    pub right: i32,
    /// Largest y.
    pub bottom: i32,
}

/// Where one label goes.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// The text's rectangle.
    pub place: Box2,
    /// Where a line to the point starts, when the label is not right beside it.
    pub leader: Option<(i32, i32)>,
}

/// Radius around a point that is kept free.
const RADIUS: i32 = 7;

impl Box2 {
    fn overlap(&self, other: &Box2) -> i64 {
        let w = (self.right.min(other.right) - self.left.max(other.left)).max(0);
        let h = (self.bottom.min(other.bottom) - self.top.max(other.top)).max(0);
        i64::from(w) * i64::from(h)
    }

    fn area(&self) -> i64 {
        i64::from(self.right - self.left) * i64::from(self.bottom - self.top)
    }

    fn around(p: (i32, i32)) -> Box2 {
        Box2 { left: p.0 - RADIUS, top: p.1 - RADIUS, right: p.0 + RADIUS, bottom: p.1 + RADIUS }
    }
}

/// Places a label of size `sizes[i]` near each point `at[i]`, within `frame`. Each takes, of the places around its
/// point, nearest first, the one that covers least of points, earlier labels, and the segments between successive `corners`.
pub fn place(at: &[(i32, i32)], sizes: &[(i32, i32)], corners: &[(i32, i32)], frame: Box2) -> Vec<Placed> {
    let mut taken: Vec<Box2> = at.iter().map(|&p| Box2::around(p)).collect();
    taken.extend(corners.windows(2).map(|pair| segment(pair[0], pair[1])));
    let mut placed = Vec::with_capacity(at.len());
    for (&point, &size) in at.iter().zip(sizes) {
        let cost = |b: &Box2| {
            let covered: i64 = taken.iter().map(|t| t.overlap(b)).sum();
            covered + 4 * (b.area() - b.overlap(&frame))
        };
        let best = candidates(point, size).min_by_key(|(_, b)| cost(b));
        let (ring, place) = best.unwrap_or((0, beside(point, size, 1, 0, RADIUS)));
        taken.push(Box2 {
            left: place.left - 3,
            top: place.top - 1,
            right: place.right + 3,
            bottom: place.bottom + 1,
        });
        let start = (point.0.clamp(place.left, place.right), point.1.clamp(place.top, place.bottom));
        placed.push(Placed { place, leader: (ring > 0).then_some(start) });
    }
    placed
}

/// Places around a point with the ring they are on, nearest ring first: right, left, above, below, diagonals.
fn candidates(point: (i32, i32), size: (i32, i32)) -> impl Iterator<Item = (usize, Box2)> {
    const SIDES: [(i32, i32); 8] = [(1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (-1, -1), (1, 1), (-1, 1)];
    [RADIUS + 2, 22, 40, 60, 85, 115]
        .into_iter()
        .enumerate()
        .flat_map(move |(ring, gap)| SIDES.map(|(dx, dy)| (ring, beside(point, size, dx, dy, gap))))
}

fn beside((x, y): (i32, i32), (w, h): (i32, i32), dx: i32, dy: i32, gap: i32) -> Box2 {
    let left = match dx {
        1 => x + gap,
        -1 => x - gap - w,
        _ => x - w / 2,
    };
    let top = match dy {
        1 => y + gap,
        -1 => y - gap - h,
        _ => y - h / 2,
    };
    Box2 { left, top, right: left + w, bottom: top + h }
}

/// A horizontal or vertical line as a thin rectangle.
fn segment(a: (i32, i32), b: (i32, i32)) -> Box2 {
    Box2 { left: a.0.min(b.0) - 2, top: a.1.min(b.1) - 2, right: a.0.max(b.0) + 2, bottom: a.1.max(b.1) + 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Box2 = Box2 { left: 0, top: 0, right: 800, bottom: 500 };

    #[test]
    fn crowded_labels_do_not_overlap() {
        let at: Vec<(i32, i32)> = (0..8).map(|i| (400 + 5 * i, 250 - 3 * i)).collect();
        let placed = place(&at, &[(110, 16); 8], &[], FRAME);
        for (i, a) in placed.iter().enumerate() {
            assert!(placed[..i].iter().all(|b| a.place.overlap(&b.place) == 0), "{placed:?}");
            assert!(at.iter().all(|&p| Box2::around(p).overlap(&a.place) == 0), "label {i} covers a point");
            assert_eq!(a.place.overlap(&FRAME), a.place.area());
        }
        assert!(placed.iter().any(|p| p.leader.is_some()));
    }

    #[test]
    fn a_lone_label_is_on_the_right_and_has_no_line() {
        let placed = place(&[(100, 100)], &[(50, 16)], &[], FRAME);
        assert!(placed[0].place.left > 100 && placed[0].leader.is_none());
    }

    #[test]
    fn at_the_right_edge_it_goes_left() {
        let placed = place(&[(790, 100)], &[(50, 16)], &[], FRAME);
        assert!(placed[0].place.right < 790);
    }

    #[test]
    fn lines_are_avoided() {
        let line = [(100, 100), (300, 100)];
        let placed = place(&[(100, 100)], &[(50, 16)], &line, FRAME);
        assert_eq!(segment(line[0], line[1]).overlap(&placed[0].place), 0);
    }
}
