//! Products with sparse matrices.
//!
//! The inner loops run over what is dense, pixels of a plane or images of a batch, so that they are vectors
//! in spite of irregular weights; tiles stay in registers over all weights of a row. Every output is the same
//! sum in the same order, whatever the tile, the batch or the number of threads, and no step is fused: all
//! versions give the same bits.

mod conv;
mod linear;

pub(super) use conv::conv_forward;
pub(super) use linear::linear_forward;

/// Multiplications a task should at least do, so that handing it to a thread pays.
const TASK: usize = 1 << 15;

/// Proof that this CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// The token, if the CPU has AVX2.
    fn detect() -> Option<Avx2> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }
}

/// Which version of the inner loops runs.
#[derive(Debug, Clone, Copy)]
enum Isa {
    /// As the crate was built.
    Baseline,
    /// Eight floats at a time.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
}

impl Isa {
    /// All versions that this machine can run, the best first.
    fn available() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        all.extend(Avx2::detect().map(Isa::Avx2));
        all.push(Isa::Baseline);
        all
    }

    /// The best version, or the baseline when the environment variable `CNN_ISA` is `scalar`. Read once.
    fn active() -> Isa {
        static ACTIVE: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *ACTIVE.get_or_init(|| match std::env::var("CNN_ISA").as_deref() {
            Ok("scalar") => Isa::Baseline,
            _ => Isa::available()[0],
        })
    }
}
