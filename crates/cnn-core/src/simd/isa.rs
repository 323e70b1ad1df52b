//! Which instruction set runs: asked of the CPU once, or forced by `CNN_ISA`.

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
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
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
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
        #[cfg(target_arch = "aarch64")]
        all.extend(Neon::detect().map(|t| Isa(Token::Neon(t))));
        all.push(Isa(Token::Scalar(Scalar::new())));
        all
    }

    /// The instruction set in use: the best one, unless the environment
    /// variable `CNN_ISA` (`scalar`, `avx2`, `avx512`, `neon`) names another.
    /// Read once; a name that is not available here is reported on standard
    /// error, and the best one is used.
    pub fn active() -> Isa {
        static ACTIVE: OnceLock<Isa> = OnceLock::new();
        *ACTIVE.get_or_init(|| {
            let all = Isa::available();
            let wanted = std::env::var_os("CNN_ISA").unwrap_or_default();
            choose(&all, &wanted.to_string_lossy()).unwrap_or_else(|complaint| {
                eprintln!("warning: {complaint}");
                all[0]
            })
        })
    }

    /// `scalar`, `avx2`, `avx512` or `neon`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Token::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512",
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => "neon",
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
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => Neon::LANES,
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
            #[cfg(target_arch = "aarch64")]
            Token::Neon(t) => t.vectorize(op),
        }
    }
}

/// The one of `all` that is called `wanted`, or the first if nothing is wanted; otherwise what to tell the user.
fn choose(all: &[Isa], wanted: &str) -> Result<Isa, String> {
    if wanted.is_empty() {
        return Ok(all[0]);
    }
    all.iter().copied().find(|isa| isa.name() == wanted).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|isa| isa.name()).collect();
        format!(
            "CNN_ISA=`{wanted}` is no instruction set of this machine, which has {}; using {}",
            names.join(", "),
            names[0]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_available_one_can_be_named() {
        let all = Isa::available();
        for &isa in &all {
            assert_eq!(choose(&all, isa.name()), Ok(isa));
        }
        assert_eq!(all.last().map(|isa| isa.name()), Some("scalar"));
        #[cfg(target_arch = "aarch64")]
        assert_eq!(all[0].name(), "neon");
    }

    #[test]
    fn without_a_name_the_best_is_used() {
        let all = Isa::available();
        assert_eq!(choose(&all, ""), Ok(all[0]));
    }

    #[test]
    fn an_unknown_name_is_reported_with_those_that_are_known() {
        let all = Isa::available();
        for wanted in ["sse9", "Scalar", " "] {
            let complaint = choose(&all, wanted).unwrap_err();
            assert!(complaint.contains(&format!("CNN_ISA=`{wanted}`")), "{complaint}");
            for isa in &all {
                assert!(complaint.contains(isa.name()), "{complaint}");
            }
        }
    }

    #[test]
    fn that_of_another_machine_is_reported() {
        let foreign = if cfg!(target_arch = "x86_64") { "neon" } else { "avx2" };
        let complaint = choose(&Isa::available(), foreign).unwrap_err();
        assert!(complaint.contains(foreign), "{complaint}");
    }
}
