//! What models are run on to be measured: the same random inputs every time.

use kinglet_graph::DType;
use kinglet_graph::ops::random::Generator;

const SEED: u64 = 0x6b69_6e67_6c65_7421;

/// Random elements of a tensor of `dtype` that takes `len` bytes: floats from −1 to 1, any numbers
/// of 16 bits or less, and 0 or 1 where numbers are larger, as these are mostly places in other
/// tensors, or masks.
pub fn tensor(dtype: DType, len: usize) -> Vec<u8> {
    let mut generator = Generator::seeded(SEED);
    let mut unit = || 2.0 * generator.unit() - 1.0;
    let mut repeat = |each: &mut dyn FnMut(f64) -> Vec<u8>| {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(each(unit()));
        }
        bytes.truncate(len);
        bytes
    };
    match dtype {
        DType::F64 => repeat(&mut |x| x.to_le_bytes().into()),
        DType::F32 | DType::C64 => repeat(&mut |x| (x as f32).to_le_bytes().into()),
        DType::F16 => repeat(&mut |x| half::f16::from_f64(x).to_le_bytes().into()),
        DType::BF16 => repeat(&mut |x| half::bf16::from_f64(x).to_le_bytes().into()),
        DType::C128 => repeat(&mut |x| x.to_le_bytes().into()),
        DType::I64 | DType::U64 => repeat(&mut |x| u64::from(x > 0.0).to_le_bytes().into()),
        DType::I32 | DType::U32 => repeat(&mut |x| u32::from(x > 0.0).to_le_bytes().into()),
        DType::Bool => repeat(&mut |x| vec![u8::from(x > 0.0)]),
        _ => repeat(&mut |x| vec![(x * 128.0).floor() as i8 as u8]),
    }
}

/// Random tokens of a vocabulary.
pub fn tokens(count: usize, vocabulary: usize) -> Vec<u32> {
    let mut generator = Generator::seeded(SEED);
    (0..count).map(|_| (generator.bits() % vocabulary.max(1) as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_what_models_can_take() {
        for dtype in DType::ALL {
            let bytes = tensor(*dtype, 240);
            assert_eq!((bytes.len(), &bytes), (240, &tensor(*dtype, 240)));
        }
        let floats = tensor(DType::F32, 4000);
        let floats = floats.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x));
        assert!(floats.clone().all(|x| (-1.0..=1.0).contains(&x)));
        assert!(floats.clone().any(|x| x > 0.5) && floats.clone().any(|x| x < -0.5));
        assert!(tensor(DType::Bool, 100).iter().all(|x| *x < 2));
        let ids = tensor(DType::I64, 800);
        assert!(ids.as_chunks::<8>().0.iter().all(|x| u64::from_le_bytes(*x) < 2));
        assert!(tensor(DType::U8, 1000).iter().any(|x| *x > 200));
    }

    #[test]
    fn tokens_are_of_the_vocabulary() {
        let tokens = super::tokens(1000, 512);
        assert!(tokens.len() == 1000 && tokens.iter().all(|token| *token < 512));
        assert!(tokens.iter().any(|token| *token > 400));
    }
}
