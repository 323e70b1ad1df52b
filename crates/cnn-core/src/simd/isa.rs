//! Which instruction set runs: asked of the CPU once, or forced by `CNN_ISA`.

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::scalar::Scalar;
use super::vector::{Simd, SimdOp};
use std::sync::OnceLock;

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Token);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Isa {
    /// All instruction sets of this machine, the best first.
    pub fn available() -> Vec<Isa> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx512::detect().map(|t| Isa(Token::Avx512(t))));
            all.extend(Avx2::detect().map(|t| Isa(Token::Avx2(t))));
        }
        all.push(Isa(Token::Scalar(Scalar::new())));
        all
    }

    /// The instruction set in use: the best one, unless the environment
    /// variable `CNN_ISA` (`scalar`, `avx2`, `avx512`) names another that is
    /// available. Read once.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let all = Isa::available();
            let wanted = std::env::var("CNN_ISA").unwrap_or_default();
            let named = all.iter().copied().find(|i| i.name() == wanted);
            named.unwrap_or(all[0])
        })
    }

    /// `scalar`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Token::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
        }
    }

    /// Floats in a vector.
    pub fn lanes(self) -> usize {
        match self.0 {
            Token::Scalar(_) => Scalar::LANES,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => Avx512::LANES,
        }
    }

    /// Runs `op` compiled for this instruction set.
    pub fn run<O: SimdOp>(self, op: O) -> O::Output {
        match self.0 {
            Token::Scalar(t) => t.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(t) => t.vectorize(op),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(t) => t.vectorize(op),
        }
    }
}
