//! Ratios of all layers from their curves.

/// What a layer offers: for each ratio what it loses and what it costs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Offer {
    /// Ratio, accuracy lost, cost; of the first ratio 0.
    pub options: Vec<(f64, f64, f64)>,
}

/// The ratio of each layer that makes `lost + price * cost` smallest: for some price these are the ratios that lose least in sum for what
/// they cost in sum (Shoham & Gersho 1988, "Efficient Bit Allocation for an Arbitrary Set of Quantizers"). Of equals the
/// smaller ratio.
pub(super) fn ratios_at(offers: &[Offer], price: f64) -> Vec<f64> {
    let best = |offer: &Offer| {
        let mut best = (f64::INFINITY, 0.0);
        for &(ratio, lost, cost) in &offer.options {
            let sum = lost + price * cost;
            if sum < best.0 {
                best = (sum, ratio);
            }
        }
        best.1
    };
    offers.iter().map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_that_loses_little_for_much_goes_first() {
        let offers = [
            Offer { options: vec![(0.0, 0.0, 100.0), (0.5, 0.01, 50.0), (0.9, 0.5, 10.0)] },
            Offer { options: vec![(0.0, 0.0, 10.0), (0.5, 0.01, 5.0), (0.9, 0.02, 1.0)] },
        ];
        assert_eq!(ratios_at(&offers, 0.0), [0.0, 0.0]);
        assert_eq!(ratios_at(&offers, 0.001), [0.5, 0.0]);
        assert_eq!(ratios_at(&offers, 0.005), [0.5, 0.9]);
        assert_eq!(ratios_at(&offers, 1.0), [0.9, 0.9]);
    }
}
