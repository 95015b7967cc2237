//! The instruction set that loops are compiled for.

/// Floats handled side by side: a register of AVX-512.
pub(super) const LANES: usize = 16;

/// One source serves all of them; the portable build already vectorizes for NEON, which every
/// aarch64 has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// The best that this machine runs.
    pub(super) fn detect() -> Level {
        Level::available().last().copied().unwrap_or(Level::Portable)
    }

    /// All that this machine runs, best last.
    pub(super) fn available() -> &'static [Level] {
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if wide {
                return &[Level::Portable, Level::Avx2, Level::Avx512];
            }
            if is_x86_feature_detected!("avx2") {
                return &[Level::Portable, Level::Avx2];
            }
        }
        &[Level::Portable]
    }
}

/// Defines a function that takes a level besides its arguments, and whose body is compiled for the
/// instructions of each. (A closure, or a function that is passed on, would be compiled once.)
macro_rules! at_level {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),+ $(,)?) -> $out:ty $body:block) => {
        $(#[$doc])*
        $vis fn $name(level: $crate::engine::kernels::level::Level, $($arg: $ty),+) -> $out {
            #[inline(always)]
            fn any($($arg: $ty),+) -> $out $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $ty),+) -> $out {
                any($($arg),+)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($arg: $ty),+) -> $out {
                any($($arg),+)
            }
            match level {
                $crate::engine::kernels::level::Level::Portable => any($($arg),+),
                // SAFETY: a level is listed only where the processor has its features.
                #[cfg(target_arch = "x86_64")]
                $crate::engine::kernels::level::Level::Avx2 => unsafe { avx2($($arg),+) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::engine::kernels::level::Level::Avx512 => unsafe { avx512($($arg),+) },
            }
        }
    };
}
pub(super) use at_level;
