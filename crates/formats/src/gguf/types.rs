//! The element types of GGUF files, by their number in ggml.

use kinglet_graph::{DType, Encoding};

use DType::Encoded;

/// Number, name, and the element type where it is supported.
const TYPES: [(u32, &str, Option<DType>); 42] = [
    (0, "F32", Some(DType::F32)),
    (1, "F16", Some(DType::F16)),
    (2, "Q4_0", Some(Encoded(Encoding::Q4_0))),
    (3, "Q4_1", Some(Encoded(Encoding::Q4_1))),
    (4, "Q4_2", None),
    (5, "Q4_3", None),
    (6, "Q5_0", Some(Encoded(Encoding::Q5_0))),
    (7, "Q5_1", Some(Encoded(Encoding::Q5_1))),
    (8, "Q8_0", Some(Encoded(Encoding::Q8_0))),
    (9, "Q8_1", None),
    (10, "Q2_K", Some(Encoded(Encoding::Q2_K))),
    (11, "Q3_K", Some(Encoded(Encoding::Q3_K))),
    (12, "Q4_K", Some(Encoded(Encoding::Q4_K))),
    (13, "Q5_K", Some(Encoded(Encoding::Q5_K))),
    (14, "Q6_K", Some(Encoded(Encoding::Q6_K))),
    (15, "Q8_K", None),
    (16, "IQ2_XXS", None),
    (17, "IQ2_XS", None),
    (18, "IQ3_XXS", None),
    (19, "IQ1_S", None),
    (20, "IQ4_NL", Some(Encoded(Encoding::IQ4_NL))),
    (21, "IQ3_S", Some(Encoded(Encoding::IQ3_S))),
    (22, "IQ2_S", None),
    (23, "IQ4_XS", Some(Encoded(Encoding::IQ4_XS))),
    (24, "I8", Some(DType::I8)),
    (25, "I16", Some(DType::I16)),
    (26, "I32", Some(DType::I32)),
    (27, "I64", Some(DType::I64)),
    (28, "F64", Some(DType::F64)),
    (29, "IQ1_M", None),
    (30, "BF16", Some(DType::BF16)),
    (31, "Q4_0_4_4", None),
    (32, "Q4_0_4_8", None),
    (33, "Q4_0_8_8", None),
    (34, "TQ1_0", Some(Encoded(Encoding::TQ1_0))),
    (35, "TQ2_0", Some(Encoded(Encoding::TQ2_0))),
    (36, "IQ4_NL_4_4", None),
    (37, "IQ4_NL_4_8", None),
    (38, "IQ4_NL_8_8", None),
    (39, "MXFP4", Some(Encoded(Encoding::MXFP4))),
    (40, "NVFP4", None),
    (41, "Q1_0", None),
];

/// The element type of number `id`. `Err` says what is wrong with it.
pub(super) fn dtype(id: u32) -> Result<DType, String> {
    match TYPES.iter().find(|row| row.0 == id) {
        Some((_, _, Some(dtype))) => Ok(*dtype),
        Some((_, name, None)) => {
            Err(format!("is of type {name}, which is not supported; requantise the model"))
        }
        None => Err(format!("is of the unknown type {id}")),
    }
}

/// The number of an element type, where ggml has it.
pub(super) fn id(dtype: DType) -> Option<u32> {
    TYPES.iter().find(|row| row.2 == Some(dtype)).map(|row| row.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_has_a_number_and_its_own_name() {
        for encoding in Encoding::ALL {
            let id = id(Encoded(*encoding)).unwrap();
            assert_eq!(dtype(id), Ok(Encoded(*encoding)));
            assert!(TYPES[id as usize].1.eq_ignore_ascii_case(encoding.name()));
        }
        assert!(TYPES.iter().enumerate().all(|(i, row)| row.0 as usize == i));
        assert!(dtype(16).unwrap_err().contains("IQ2_XXS"));
        assert!(dtype(99).unwrap_err().contains("unknown type 99"));
        assert_eq!(id(DType::U4), None);
    }
}
