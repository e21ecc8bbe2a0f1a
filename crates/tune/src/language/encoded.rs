//! What weights are written as.

use kinglet_graph::{DType, Encoding};
use std::fmt;
use std::str::FromStr;

/// What most matrices of a model are written as: floats of 32 or 16 bits, or any encoding of GGUF files.
/// Vectors are f32 in such files, whatever is asked for.
///
/// ```
/// use kinglet_graph::{DType, Encoding};
/// use kinglet_tune::language::Encoded;
///
/// let ternary: Encoded = "tq2_0".parse()?;
/// let of = |name, row| ternary.of(name, &[8, row], false);
/// assert_eq!(of("blk.0.ffn_up.weight", 512), DType::Encoded(Encoding::TQ2_0));
/// assert_eq!(of("output.weight", 512), DType::Encoded(Encoding::Q6_K));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded(DType);

impl Default for Encoded {
    fn default() -> Encoded {
        Encoded(DType::F32)
    }
}

/// What stays in f32, as in llama.cpp: it is small, and what is small in it matters.
const FLOATS: [&str; 4] = ["position_embd.", "token_types.", "ffn_gate_inp.", "ssm_conv1d."];

impl Encoded {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Encoded> {
        let encodings = Encoding::ALL.iter().map(|e| DType::Encoded(*e));
        [DType::F32, DType::F16, DType::BF16].into_iter().chain(encodings).map(Encoded)
    }

    /// The type of most matrices.
    pub fn dtype(self) -> DType {
        self.0
    }

    /// Whether only GGUF files hold it.
    pub fn is_blocks(self) -> bool {
        self.0.encoding().is_some()
    }

    /// What the weight `name` of sizes `dims` is written as; `tied`: whether the embeddings are the
    /// output's weights too.
    ///
    /// As llama.cpp's quantiser does, where it makes all layers alike: the output is Q6_K or better, and
    /// beside weights of three values embeddings are Q4_K; rows that are no whole blocks have an encoding
    /// of shorter blocks and at least as many bits, or else are f16.
    pub fn of(self, name: &str, dims: &[usize], tied: bool) -> DType {
        let row = dims.last().copied().unwrap_or(0);
        if dims.len() < 2 || FLOATS.iter().any(|part| name.contains(part)) {
            return DType::F32;
        }
        let Some(encoding) = self.0.encoding() else { return self.0 };
        let embeddings = name == "token_embd.weight";
        let ternary = matches!(encoding, Encoding::TQ1_0 | Encoding::TQ2_0);
        let wanted = match encoding {
            Encoding::Q8_0 => encoding,
            _ if name == "output.weight" || (embeddings && tied) => Encoding::Q6_K,
            _ if embeddings && ternary => Encoding::Q4_K,
            _ => encoding,
        };
        let fits = |e: &Encoding| row.is_multiple_of(e.block_len());
        let found = std::iter::successors(Some(wanted), |e| shorter(*e)).find(fits);
        found.map_or(DType::F16, DType::Encoded)
    }

    /// llama.cpp's number of a file in which most matrices are so.
    pub fn file_type(self) -> u32 {
        match self.0 {
            DType::F16 => 1,
            DType::BF16 => 32,
            DType::Encoded(encoding) => match encoding {
                Encoding::Q4_0 => 2,
                Encoding::Q4_1 => 3,
                Encoding::Q8_0 => 7,
                Encoding::Q5_0 => 8,
                Encoding::Q5_1 => 9,
                Encoding::Q2_K => 10,
                Encoding::Q3_K => 11,
                Encoding::Q4_K => 14,
                Encoding::Q5_K => 16,
                Encoding::Q6_K => 18,
                Encoding::IQ4_NL => 25,
                Encoding::IQ3_S => 26,
                Encoding::IQ4_XS => 30,
                Encoding::TQ1_0 => 36,
                Encoding::TQ2_0 => 37,
                Encoding::MXFP4 => 38,
            },
            _ => 0,
        }
    }
}

/// What stands in for an encoding whose blocks are too long.
fn shorter(encoding: Encoding) -> Option<Encoding> {
    match encoding {
        Encoding::TQ1_0 | Encoding::TQ2_0 => Some(Encoding::Q4_0),
        Encoding::Q2_K | Encoding::Q3_K | Encoding::IQ3_S | Encoding::IQ4_XS => {
            Some(Encoding::IQ4_NL)
        }
        Encoding::Q4_K => Some(Encoding::Q5_0),
        Encoding::Q5_K => Some(Encoding::Q5_1),
        Encoding::Q6_K => Some(Encoding::Q8_0),
        _ => None,
    }
}

impl fmt::Display for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl FromStr for Encoded {
    type Err = String;

    fn from_str(text: &str) -> Result<Encoded, String> {
        let found = Encoded::all().find(|e| e.0.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| {
            let all: Vec<String> = Encoded::all().map(|e| e.to_string()).collect();
            format!("give one of {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(encoded: &str, name: &str, row: usize, tied: bool) -> &'static str {
        encoded.parse::<Encoded>().unwrap().of(name, &[4, row], tied).name()
    }

    #[test]
    fn each_weight_has_the_type_that_its_part_and_its_rows_allow() {
        let up = "blk.0.ffn_up.weight";
        for (encoded, row, want) in [
            ("tq2_0", 512, "tq2_0"),
            ("tq1_0", 64, "q4_0"),
            ("TQ1_0", 172, "f16"),
            ("q2_k", 64, "iq4_nl"),
            ("q4_k", 64, "q5_0"),
            ("q5_k", 64, "q5_1"),
            ("q6_k", 64, "q8_0"),
            ("mxfp4", 172, "f16"),
            ("bf16", 172, "bf16"),
            ("f32", 172, "f32"),
        ] {
            assert_eq!(of(encoded, up, row, false), want, "{encoded} of {row}");
        }
        assert_eq!(of("q2_k", "output.weight", 512, false), "q6_k");
        assert_eq!(of("q2_k", "output.weight", 64, false), "q8_0");
        assert_eq!(of("q8_0", "output.weight", 512, false), "q8_0");
        let embeddings = "token_embd.weight";
        assert_eq!(of("tq2_0", embeddings, 512, false), "q4_k");
        assert_eq!(of("tq2_0", embeddings, 512, true), "q6_k");
        assert_eq!(of("q3_k", embeddings, 512, false), "q3_k");
        assert_eq!(of("q3_k", "blk.1.ffn_gate_inp.weight", 512, false), "f32");
        assert_eq!(Encoded::default().of(up, &[512], false), DType::F32);
    }

    #[test]
    fn every_type_has_a_name_and_a_number_of_its_own() {
        let all: Vec<Encoded> = Encoded::all().collect();
        for (i, e) in all.iter().enumerate() {
            assert_eq!(e.to_string().parse(), Ok(*e));
            assert!(all[..i].iter().all(|other| other.file_type() != e.file_type()), "{e}");
        }
        assert!("q9".parse::<Encoded>().unwrap_err().contains("tq2_0"));
    }
}
