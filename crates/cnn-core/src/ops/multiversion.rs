//! Compiles one loop for several instruction sets and picks one at run time.
//!
//! The crate is built for baseline x86-64 (SSE2). A hot function is written once, inside
//! `multiversion! { fn name(args) -> Ret { body } }`; the body is inlined into an AVX-512 and an
//! AVX2 copy, where the compiler vectorizes it with wider registers. Helpers it calls must be
//! `#[inline(always)]`, otherwise they stay SSE2 code. Nothing uses `mul_add`, which is a slow
//! library call without FMA, so every copy rounds the same way.

/// Declares a function whose body is compiled for AVX-512, AVX2 and the baseline.
macro_rules! multiversion {
    ($(#[$attr:meta])* $vis:vis fn $name:ident $(<$($g:ident: $bound:path),+>)?
     ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$attr])*
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    body($($arg),*)
                }
                match $crate::ops::multiversion::isa() {
                    // SAFETY: `isa` returns Avx512 only if the CPU has those four features.
                    $crate::ops::multiversion::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: `isa` returns Avx2 only if the CPU has AVX2 and FMA.
                    $crate::ops::multiversion::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::ops::multiversion::Isa::Baseline => {}
                }
            }
            body($($arg),*)
        }
    };
}
pub(crate) use multiversion;

/// The instruction set in use, as the macro needs it.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(crate) enum Isa {
    Baseline,
    Avx2,
    Avx512,
}

/// That of [`crate::simd::Isa::active`], which was detected and may be forced by `CNN_ISA`.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn isa() -> Isa {
    match crate::simd::Isa::active().name() {
        "avx512" => Isa::Avx512,
        "avx2" => Isa::Avx2,
        _ => Isa::Baseline,
    }
}

/// `v`, with -0 as 0: written around a value that is stored where one of its choices was loaded.
///
/// LLVM turns `if p { *x = v }` and its in-place equivalents into AVX2 masked stores, which are
/// several times slower than ordinary ones on AMD CPUs. After an addition it cannot.
#[inline(always)]
pub(crate) fn unmasked(v: f32) -> f32 {
    v + 0.0
}
