//! Constants that are mostly zeros.

use super::{Attribute, ElementType, Express, Numbers, Value};
use crate::tensor::elements;
use crate::{Error, Result};

/// The longest distance that a byte can say.
const LONGEST: usize = u8::MAX as usize;

/// Bytes that five operators and their settings take in a file, beside the name of the node.
const OPERATORS: usize = 460;

/// How often the name of the node is written into a file for them.
const NAMES: usize = 25;

impl Express<'_> {
    /// A constant of which only the numbers at some positions are not zero: row-major, rising, as many as the values.
    ///
    /// Where that is smaller than all numbers one by one, the file has the non-zero numbers, and of each the distance to the
    /// one before as a byte (Han, Mao & Dally 2016, section 2). Five standard operators of opset 13 put them in their
    /// places, which readers do once, when they load the file (ONNX Runtime and `cnn-onnx` fold constants):
    ///
    /// ```text
    /// positions = CumSum(Cast(distances))
    /// constant  = Reshape(ScatterElements(Expand(0, [elements]), positions, values), shape)
    /// ```
    ///
    /// That is one byte and a value for each non-zero number: in 32 bits 5 instead of 4 bytes, so half of a constant with 60 % zeros and an
    /// eighth of one with 90 %. Where the next non-zero number is farther than 255, a zero is stored as well; no byte therefore
    /// stands for more than 255 elements, which matters to readers that limit what a file may ask for. The
    /// operators take up to a kilobyte; constants that are small, that have few zeros or four bits are written in full.
    ///
    /// # Errors
    /// If positions and values are not as many, or positions do not rise below the number of elements.
    pub fn sparse(
        &mut self,
        label: &str,
        shape: &[usize],
        positions: impl Iterator<Item = usize>,
        values: &Numbers,
    ) -> Result<Value> {
        let positions: Vec<usize> = positions.collect();
        let size = elements(shape);
        let rising = positions.windows(2).all(|pair| pair[0] < pair[1]);
        if positions.len() != values.len() || !rising || positions.last().is_some_and(|&p| p >= size) {
            return Err(Error::Shape(format!(
                "{} values at {} positions in a constant of shape {shape:?}; positions rise",
                values.len(),
                positions.len()
            )));
        }
        let stored = places(&positions, size).count();
        let operators = OPERATORS + NAMES * self.node.len();
        let smaller = stored * (1 + values.width()) + operators < size * values.width();
        // the standard scatters no 4-bit numbers, and indices are of 32 bits here
        if matches!(values, Numbers::U4(_)) || !smaller || i32::try_from(size).is_err() {
            let mut left = positions.into_iter().peekable();
            let all = (0..size).map(|at| left.next_if_eq(&at).is_some());
            return self.constant(label, shape, values.spread(all));
        }
        let distances = places(&positions, size).map(|(distance, _)| distance).collect();
        let distances = self.constant(&format!("{label}.gaps"), &[stored], Numbers::U8(distances))?;
        let to_i32 = vec![("to", Attribute::Type(ElementType::I32))];
        let distances = self.operator("Cast", &[distances], to_i32);
        let axis = self.constant(&format!("{label}.axis"), &[], Numbers::I32(vec![0]))?;
        let indices = self.operator("CumSum", &[distances, axis], vec![]);
        let zero = self.constant(&format!("{label}.zero"), &[], values.spread([false].into_iter()))?;
        let length = self.integers(&format!("{label}.size"), &[size as i64])?;
        let zeros = self.operator("Expand", &[zero, length], vec![]);
        let stored_values = values.spread(places(&positions, size).map(|(_, is_value)| is_value));
        let values = self.constant(label, &[stored], stored_values)?;
        let flat = self.operator("ScatterElements", &[zeros, indices, values], vec![]);
        let shape: Vec<i64> = shape.iter().map(|&d| d as i64).collect();
        let shape = self.integers(&format!("{label}.shape"), &shape)?;
        Ok(self.operator("Reshape", &[flat, shape], vec![]))
    }
}

/// For every number that is stored its distance to the one before (the first: to the start), and whether it is one of
/// the values; the others are zeros between two values that are too far from each other, or from the last one to the end.
fn places(positions: &[usize], size: usize) -> impl Iterator<Item = (u8, bool)> {
    let mut before = 0;
    let last = (size.saturating_sub(1), false);
    positions.iter().map(|&p| (p, true)).chain([last]).flat_map(move |(position, is_value)| {
        let distance = position - before;
        let zeros = distance.saturating_sub(1) / LONGEST;
        before = position;
        let value = is_value.then_some(((distance - zeros * LONGEST) as u8, true));
        std::iter::repeat_n((LONGEST as u8, false), zeros).chain(value)
    })
}

impl Numbers {
    /// Bytes of a number.
    fn width(&self) -> usize {
        match self {
            Numbers::U8(_) | Numbers::U4(_) | Numbers::I8(_) => 1,
            Numbers::F32(_) | Numbers::I32(_) => 4,
            Numbers::I64(_) => 8,
        }
    }

    /// The next number for each `true`, and zero for each `false`.
    fn spread(&self, which: impl Iterator<Item = bool>) -> Numbers {
        fn each<T: Copy + Default>(numbers: &[T], which: impl Iterator<Item = bool>) -> Vec<T> {
            let mut numbers = numbers.iter().copied();
            which.map(|w| if w { numbers.next().unwrap_or_default() } else { T::default() }).collect()
        }
        match self {
            Numbers::F32(v) => Numbers::F32(each(v, which)),
            Numbers::U8(v) => Numbers::U8(each(v, which)),
            Numbers::U4(v) => Numbers::U4(each(v, which)),
            Numbers::I8(v) => Numbers::I8(each(v, which)),
            Numbers::I32(v) => Numbers::I32(each(v, which)),
            Numbers::I64(v) => Numbers::I64(each(v, which)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Application, Express, Expressed, Numbers, Value};
    use super::places;
    use std::collections::HashSet;

    /// Shapes and numbers of the constants, and the operators.
    type Written = (Vec<(Vec<usize>, Numbers)>, Vec<&'static str>);

    /// What is written for a constant.
    fn written(shape: &[usize], positions: &[usize], values: &Numbers) -> crate::Result<Written> {
        let mut into = Expressed {
            names: vec![String::new()],
            taken: HashSet::new(),
            operators: Vec::new(),
            constants: Vec::new(),
        };
        let mut at = Express {
            four_bit: true,
            node: "fc",
            inputs: Vec::new(),
            shapes: Vec::new(),
            output: None,
            into: &mut into,
        };
        let value = at.sparse("weight", shape, positions.iter().copied(), values)?;
        assert!(
            into.operators.last().is_none_or(|o: &Application| o.output == value) && value != Value::NONE
        );
        let constants = into.constants.into_iter().map(|(_, shape, numbers)| (shape, numbers)).collect();
        Ok((constants, into.operators.iter().map(|o| o.kind).collect()))
    }

    /// The elements that distances and values stand for, by the definition.
    fn read(size: usize, distances: &[u8], values: &[f32]) -> Vec<f32> {
        let mut all = vec![0.0; size];
        let mut at = 0;
        for (&distance, &value) in distances.iter().zip(values) {
            at += usize::from(distance);
            all[at] = value;
        }
        all
    }

    #[test]
    fn distances_lead_to_the_positions() {
        // 255 is said at once, 256 and 510 with a zero in between, 511 with two; 1300 zeros follow
        let positions = [0, 1, 256, 512, 1022, 1533, 1600];
        let values: Vec<f32> = (1..8).map(|v| v as f32).collect();
        let (constants, kinds) = written(&[29, 100], &positions, &Numbers::F32(values.clone())).unwrap();
        assert_eq!(kinds, ["Cast", "CumSum", "Expand", "ScatterElements", "Reshape"]);
        let [(shape, Numbers::U8(distances)), .., (of_values, Numbers::F32(stored)), (_, target)] =
            &constants[..]
        else {
            panic!("{constants:?}")
        };
        let between = [0, 1, 255, 255, 1, 255, 255, 255, 255, 1, 67];
        assert_eq!(distances[..], [&between[..], &[255; 5]].concat(), "no byte stands for more than 255");
        assert_eq!((shape, of_values), (&vec![16], &vec![16]));
        assert_eq!(target, &Numbers::I64(vec![29, 100]));
        let mut wanted = vec![0.0; 2900];
        positions.iter().zip(values).for_each(|(&p, v)| wanted[p] = v);
        assert_eq!(read(2900, distances, stored), wanted);
    }

    #[test]
    fn every_type_has_its_own_zeros() {
        for (values, zero) in [
            (Numbers::I8(vec![-3, 5]), Numbers::I8(vec![0])),
            (Numbers::U8(vec![3, 5]), Numbers::U8(vec![0])),
            (Numbers::I32(vec![-3, 5]), Numbers::I32(vec![0])),
            (Numbers::I64(vec![-3, 5]), Numbers::I64(vec![0])),
        ] {
            let (constants, _) = written(&[40, 50], &[3, 1990], &values).unwrap();
            assert!(constants.contains(&(Vec::new(), zero)), "{constants:?}");
        }
    }

    #[test]
    fn what_would_not_be_smaller_is_written_in_full() {
        let full = |shape: &[usize], positions: &[usize], values: Numbers| {
            let (constants, kinds) = written(shape, positions, &values).unwrap();
            assert_eq!((constants.len(), kinds.len(), &constants[0].0[..]), (1, 0, shape));
            constants.into_iter().next().unwrap().1
        };
        // a small one
        let small = full(&[2, 3], &[1, 4], Numbers::F32(vec![0.5, -1.0]));
        assert_eq!(small, Numbers::F32(vec![0.0, 0.5, 0.0, 0.0, -1.0, 0.0]));
        assert_eq!(full(&[2], &[], Numbers::I8(vec![])), Numbers::I8(vec![0, 0]));
        // one with 10 % zeros
        let positions: Vec<usize> = (0..10_000).filter(|p| p % 10 > 0).collect();
        let values = Numbers::F32(vec![1.0; 9000]);
        assert_eq!(full(&[10_000], &positions, values).len(), 10_000);
        // half zeros: smaller with 4 bytes a number, not with one
        let half: Vec<usize> = (0..10_000).step_by(2).collect();
        full(&[10_000], &half, Numbers::U8(vec![1; 5000]));
        assert_eq!(written(&[10_000], &half, &Numbers::I32(vec![1; 5000])).unwrap().1.len(), 5);
        // four bits
        let four = full(&[5000], &[7], Numbers::U4(vec![9]));
        assert_eq!((four.len(), matches!(four, Numbers::U4(_))), (5000, true));
    }

    #[test]
    fn a_constant_of_zeros_alone() {
        assert_eq!(places(&[], 0).count() + places(&[], 256).count(), 0);
        assert_eq!(places(&[], 257).collect::<Vec<_>>(), [(255, false)]);
        assert_eq!(places(&[255], 256).collect::<Vec<_>>(), [(255, true)]);
        let (constants, kinds) = written(&[1000, 10], &[], &Numbers::F32(vec![])).unwrap();
        assert_eq!((kinds.len(), constants[0].1.len()), (5, 39));
    }

    #[test]
    fn positions_are_checked() {
        let values = Numbers::F32(vec![1.0, 2.0]);
        for wrong in [&[1, 1][..], &[2, 1], &[1], &[1, 6], &[1, 2, 3]] {
            assert!(written(&[2, 3], wrong, &values).is_err(), "{wrong:?}");
        }
        assert!(written(&[2, 3], &[0, 5], &values).is_ok());
    }
}
