//! Fields of a few bits, one after the other, low bits first.

/// Collects fields into bytes.
#[derive(Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    count: u32,
}

impl BitWriter {
    /// Appends the low `bits` (at most 32) of `value`, which has no others.
    pub(crate) fn push(&mut self, value: u32, bits: u32) {
        self.pending |= u64::from(value) << self.count;
        self.count += bits;
        while self.count >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    /// The bytes; what is left of the last one is filled with copies of `fill`.
    pub(crate) fn finish(mut self, fill: bool) -> Vec<u8> {
        while self.count > 0 {
            self.push(u32::from(fill), 1);
        }
        self.bytes
    }
}

/// Takes fields out of bytes.
#[derive(Debug)]
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    pending: u64,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, pending: 0, count: 0 }
    }

    /// The next `bits` (at most 32), or `None` if fewer are left.
    pub(crate) fn take(&mut self, bits: u32) -> Option<u32> {
        while self.count < bits {
            let (&first, rest) = self.bytes.split_first()?;
            self.pending |= u64::from(first) << self.count;
            self.bytes = rest;
            self.count += 8;
        }
        let value = self.pending & ((1 << bits) - 1);
        self.pending >>= bits;
        self.count -= bits;
        Some(value as u32)
    }
}

/// One bit for each flag.
pub(crate) fn pack_flags(flags: impl Iterator<Item = bool>) -> Vec<u8> {
    let mut out = BitWriter::default();
    flags.for_each(|flag| out.push(u32::from(flag), 1));
    out.finish(false)
}

/// The first `count` flags; `None` if there are fewer, or if a bit beyond them is set.
pub(crate) fn unpack_flags(bytes: &[u8], count: usize) -> Option<Vec<bool>> {
    if bytes.len() != count.div_ceil(8) {
        return None;
    }
    let spare = bytes.len() * 8 - count;
    if spare > 0 && bytes.last().is_some_and(|last| u32::from(*last) >> (8 - spare) != 0) {
        return None;
    }
    Some((0..count).map(|i| bytes[i / 8] >> (i % 8) & 1 == 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_come_back(fields in proptest::collection::vec((1u32..=32, any::<u32>()), 0..50)) {
            let value = |bits: u32, v: u32| (u64::from(v) & ((1u64 << bits) - 1)) as u32;
            let mut out = BitWriter::default();
            fields.iter().for_each(|&(bits, v)| out.push(value(bits, v), bits));
            let bytes = out.finish(true);
            let mut from = BitReader::new(&bytes);
            for &(bits, v) in &fields {
                prop_assert_eq!(from.take(bits), Some(value(bits, v)));
            }
            prop_assert_eq!(from.take(8), None);
        }

        #[test]
        fn flags_come_back(flags in proptest::collection::vec(any::<bool>(), 0..40)) {
            let bytes = pack_flags(flags.iter().copied());
            prop_assert_eq!(unpack_flags(&bytes, flags.len()), Some(flags));
        }
    }

    #[test]
    fn spare_bits_must_be_clear() {
        assert_eq!(unpack_flags(&[0b1000], 3), None);
        assert_eq!(unpack_flags(&[0b100], 3), Some(vec![false, false, true]));
        assert_eq!(unpack_flags(&[], 3), None);
    }
}
