//! What each encoding becomes when it is packed: unsigned codes of a few bits, and scales.

use crate::encoding::Encoding;
use crate::encoding::iq::IQ4_VALUES;
use crate::encoding::mx::MXFP4_VALUES;

/// Elements that share a scale of the rounded rows.
pub(super) const BLOCK: usize = 32;
/// Blocks of a unit: what has one header.
pub(super) const UNIT: usize = 8;
/// Rows of weights in a panel: those that a kernel computes side by side.
pub(super) const PANEL: usize = 16;

/// Where scales come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// A half for each block.
    Block,
    /// The upper half of a single for each block: powers of two of any size.
    Power,
    /// A half for each unit.
    Unit,
    /// A half for each unit times a signed byte for each sub-block. Minima are a second half times
    /// unsigned bytes, and are subtracted.
    Scaled,
}

/// How an encoding is packed. An element is `(code − zero) × scale`, plus a minimum where there
/// are some.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// Bits of a stored code: 2, 3, 4, 5 or 6; 8 where they are signed bytes.
    pub bits: usize,
    /// What stored codes stand for.
    pub table: Option<[u8; 16]>,
    /// The code of 0.
    pub zero: u8,
    /// Whether sub-blocks, each with a scale, are half a block.
    pub halves: bool,
    pub scale: Scale,
    pub mins: bool,
    /// Whether rows are multiplied as they are stored, and are not packed.
    pub stored: bool,
}

const fn form(bits: usize, zero: u8, scale: Scale) -> Form {
    Form { bits, table: None, zero, halves: false, scale, mins: false, stored: false }
}

impl Form {
    const fn with_mins(self) -> Form {
        Form { mins: true, ..self }
    }

    const fn in_halves(self) -> Form {
        Form { halves: true, ..self }
    }

    /// Codes that stand for `values`, whose smallest is at least −`zero`.
    fn through(self, values: [i8; 16]) -> Form {
        let code = |v: i8| (i16::from(v) + i16::from(self.zero)) as u8;
        Form { table: Some(values.map(code)), ..self }
    }

    pub fn of(encoding: Encoding) -> Form {
        match encoding {
            Encoding::Q4_0 => form(4, 8, Scale::Block),
            Encoding::Q4_1 => form(4, 0, Scale::Block).with_mins(),
            Encoding::Q5_0 => form(5, 16, Scale::Block),
            Encoding::Q5_1 => form(5, 0, Scale::Block).with_mins(),
            // On Arm rows that lie side by side in a packed copy take half of the instructions that rows as
            // they are stored would, and decoding is not always bound by memory there.
            Encoding::Q8_0 => {
                Form { stored: !cfg!(target_arch = "aarch64"), ..form(8, 128, Scale::Block) }
            }
            Encoding::Q2_K => form(2, 0, Scale::Scaled).in_halves().with_mins(),
            Encoding::Q3_K => form(3, 4, Scale::Scaled).in_halves(),
            Encoding::Q4_K => form(4, 0, Scale::Scaled).with_mins(),
            Encoding::Q5_K => form(5, 0, Scale::Scaled).with_mins(),
            Encoding::Q6_K => form(6, 32, Scale::Scaled).in_halves(),
            Encoding::IQ4_NL => form(4, 128, Scale::Block).through(IQ4_VALUES),
            Encoding::IQ4_XS => form(4, 128, Scale::Scaled).through(IQ4_VALUES),
            Encoding::IQ3_S => form(5, 15, Scale::Scaled),
            Encoding::TQ1_0 | Encoding::TQ2_0 => form(2, 1, Scale::Unit),
            Encoding::MXFP4 => form(4, 12, Scale::Power).through(MXFP4_VALUES),
        }
    }

    /// Whether codes take all 8 bits; 128 then is the code of 0.
    pub fn is_wide(&self) -> bool {
        self.zero == 128
    }

    /// Sub-blocks of a block.
    pub fn subs(&self) -> usize {
        if self.halves { 2 } else { 1 }
    }

    /// Halves that a panel row's scales take in a unit of `blocks` blocks.
    pub fn wide_scales(&self, blocks: usize) -> usize {
        match self.scale {
            Scale::Block | Scale::Power => blocks,
            Scale::Unit | Scale::Scaled => 1,
        }
    }

    /// Bytes that a panel row's scales take besides.
    pub fn small_scales(&self, blocks: usize) -> usize {
        if self.scale == Scale::Scaled { blocks * self.subs() } else { 0 }
    }

    /// Bytes before the codes of a unit.
    pub fn header(&self, blocks: usize) -> usize {
        let kinds = if self.mins { 2 } else { 1 };
        let row = kinds * (2 * self.wide_scales(blocks) + self.small_scales(blocks));
        (row * PANEL).next_multiple_of(64)
    }

    /// Bytes of a unit.
    pub fn unit(&self, blocks: usize) -> usize {
        self.header(blocks) + blocks * BLOCK * PANEL * self.bits / 8
    }

    /// Of how many bits the codes are made, the lowest first: planes of (width, lowest bit).
    pub const fn planes(bits: usize) -> &'static [(usize, usize)] {
        match bits {
            8 => &[(8, 0)],
            2 => &[(2, 0)],
            3 => &[(2, 0), (1, 2)],
            4 => &[(4, 0)],
            5 => &[(4, 0), (1, 4)],
            _ => &[(4, 0), (2, 4)],
        }
    }
}
