use std::fmt;
use std::sync::OnceLock;

/// The environment variable that forces an instruction set, for tests and for comparing.
pub const ISA_VARIABLE: &str = "RECTIFLOW_ISA";

/// The instructions that kernels may use. A later one includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine of this architecture has: SSE2, or NEON.
    Portable,
    /// AVX2 with FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with products of bf16 pairs and of int8 quads (BF16, VNNI).
    Avx512Bf16,
    /// Tiles: AMX with bf16 and int8 products.
    Amx,
}

/// An instruction set that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is not one of [`Isa::ALL`].
    #[error(
        "{ISA_VARIABLE}={name} names no instruction set\nhint: it takes portable, avx2, avx512, avx512bf16 or amx; unset it for the best that there is"
    )]
    Unknown {
        /// What was given.
        name: String,
    },
    /// This processor, or its operating system, does not have it.
    #[error(
        "{ISA_VARIABLE}={wanted}, but the best that this processor has is {best}\nhint: unset {ISA_VARIABLE}, or set it to {best} or less"
    )]
    Unsupported {
        /// What was asked for.
        wanted: Isa,
        /// What there is.
        best: Isa,
    },
}

impl Isa {
    /// All of them, the plainest first.
    pub const ALL: [Isa; 5] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The best that this machine has.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(detect)
    }

    /// Those that this machine has, the plainest first.
    pub fn available() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|&isa| isa <= Isa::best())
    }

    /// What [`ISA_VARIABLE`] asks for, or the best. Read once; what the process started with holds.
    ///
    /// # Errors
    /// The variable names something else, or something this machine does not have.
    pub fn chosen() -> Result<Isa, IsaError> {
        static CHOSEN: OnceLock<Result<Isa, IsaError>> = OnceLock::new();
        CHOSEN.get_or_init(|| choose(std::env::var_os(ISA_VARIABLE), Isa::best())).clone()
    }
}

fn choose(asked: Option<std::ffi::OsString>, best: Isa) -> Result<Isa, IsaError> {
    let Some(name) = asked else { return Ok(best) };
    let name = name.to_string_lossy();
    let wanted = Isa::ALL.into_iter().find(|isa| isa.to_string() == name);
    match wanted {
        Some(wanted) if wanted <= best => Ok(wanted),
        Some(wanted) => Err(IsaError::Unsupported { wanted, best }),
        None => Err(IsaError::Unknown { name: name.into_owned() }),
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Avx512Bf16 => "avx512bf16",
            Isa::Amx => "amx",
        })
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa::Portable
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma")) {
        return Isa::Portable;
    }
    if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
        return Isa::Avx2;
    }
    if !(has!("avx512bf16") && has!("avx512vnni")) {
        return Isa::Avx512;
    }
    if crate::tiles::enable() { Isa::Amx } else { Isa::Avx512Bf16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_chooses_and_a_wrong_one_says_what_to_do() {
        assert_eq!(choose(None, Isa::Avx2), Ok(Isa::Avx2));
        assert_eq!(choose(Some("portable".into()), Isa::Avx2), Ok(Isa::Portable));
        let missing = choose(Some("amx".into()), Isa::Avx2).unwrap_err();
        assert!(missing.to_string().contains("the best that this processor has is avx2"), "{missing}");
        let unknown = choose(Some("sse9".into()), Isa::Avx2).unwrap_err();
        assert!(unknown.to_string().contains("sse9 names no instruction set"), "{unknown}");
    }
}
