//! Whether a JPEG file has its end: decoders fill what is missing with grey and say nothing.

/// True if the marker segments and scans of the file lead to an end-of-image marker (ITU-T T.81, B.1.1).
pub(crate) fn is_whole(bytes: &[u8]) -> bool {
    // behind the start-of-image marker
    let mut at = 2;
    loop {
        // to the next marker: over entropy-coded data, where 0xFF is followed by 0 or is a restart marker,
        // and fill
        let Some(marker) = bytes.get(at..).and_then(next_marker) else { return false };
        at += marker;
        match bytes[at - 1] {
            0xd9 => return true,
            // a temporary marker stands alone
            0x01 => {}
            _ => match bytes.get(at..at + 2) {
                Some(&[high, low]) => at += usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        }
    }
}

/// The position behind the next marker that is not a restart marker.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    let marks = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd8);
    bytes.windows(2).position(marks).map(|at| at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, a segment whose contents look like an end, a scan with a stuffed byte and a restart marker,
    /// fill, end.
    const WHOLE: &[u8] = &[
        0xff, 0xd8, 0xff, 0xe0, 0, 4, 0xff, 0xd9, 0xff, 0xda, 0, 3, 1, 7, 0xff, 0, 8, 0xff, 0xd0, 9, 0xff,
        0xff, 0xd9,
    ];

    #[test]
    fn only_the_end_of_the_picture_counts() {
        assert!(is_whole(WHOLE));
        assert!(is_whole(&[WHOLE, &[1, 2, 3]].concat()));
        for length in 0..WHOLE.len() {
            assert!(!is_whole(&WHOLE[..length]), "{length}");
        }
    }
}
