//! The innermost kernels: what each instruction set computes at once, and how it wants its
//! operands laid out.

use crate::isa::Isa;
use crate::requant::Byte;

/// How gathered rows store their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "which are in use depends on the architecture")]
pub(super) enum Element {
    /// Bytes as `u8`: signed ones are moved up by 128.
    Unsigned,
    /// Bytes as `i8`: unsigned ones are moved down by 128.
    Signed,
    /// `i16`, less the zero point.
    Wide,
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        if self == Element::Wide { 2 } else { 1 }
    }

    /// What turns a byte of type `kind` into this element.
    pub(super) fn flip(self, kind: Byte) -> u8 {
        match (self, kind) {
            (Element::Unsigned, Byte::Signed) | (Element::Signed, Byte::Unsigned) => 0x80,
            _ => 0,
        }
    }

    /// The input's zero point as gathered rows hold it.
    pub(super) fn zero_point(self, kind: Byte, zero_point: i32) -> i32 {
        match (self, kind) {
            (Element::Wide, _) => 0,
            (Element::Unsigned, Byte::Signed) => zero_point + 128,
            (Element::Signed, Byte::Unsigned) => zero_point - 128,
            _ => zero_point,
        }
    }
}

/// One tile's operands. Rows of `a` are `a_stride` bytes apart and hold `steps * depth_step`
/// elements. `b` holds for each step and vector `lanes * depth_step` weights, the depth innermost.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) a: *const u8,
    pub(super) a_stride: usize,
    pub(super) b: *const i8,
    pub(super) steps: usize,
    /// `vectors * lanes` first values.
    pub(super) start: *const i32,
    /// Rows of `vectors * lanes` results, one after another.
    pub(super) out: *mut i32,
}

/// Computes a tile of `(rows, vectors)`.
type Run = unsafe fn((usize, usize), &Tile);

/// An instruction set's kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Micro {
    pub(super) element: Element,
    /// Columns of a vector.
    pub(super) lanes: usize,
    /// Consecutive values of the depth that one column of a vector holds.
    pub(super) depth_step: usize,
    /// The most rows for one vector, two, and so on.
    pub(super) most_rows: &'static [usize],
    pub(super) run: Run,
}

impl Micro {
    pub(super) fn new(isa: Isa) -> Self {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(_) | Isa::Avx512(_) => super::avx2::MICRO,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni(_) => super::vnni::MICRO,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(_) => super::neon::WIDENING,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot(_) | Isa::NeonI8mm(_) => super::neon::DOT,
            _ => super::portable::MICRO,
        }
    }

    pub(super) fn lanes(&self) -> usize {
        self.lanes
    }

    pub(super) fn most_vectors(&self) -> usize {
        self.most_rows.len()
    }

    pub(super) fn most_rows_of(&self, vectors: usize) -> usize {
        self.most_rows[vectors - 1]
    }

    /// The most rows of any tile.
    pub(super) fn most_rows(&self) -> usize {
        self.most_rows.iter().copied().max().unwrap_or(1)
    }

    /// The most accumulators of any tile.
    pub(super) fn tile_len(&self) -> usize {
        (1..)
            .zip(self.most_rows)
            .map(|(vectors, rows)| vectors * self.lanes * rows)
            .max()
            .unwrap_or(0)
    }

    pub(super) fn reads_in_place(&self, kind: Byte) -> bool {
        self.element != Element::Wide && self.element.flip(kind) == 0
    }

    /// The sum of a gathered row's values less the zero point (wide elements are less it already).
    pub(super) fn row_sum(&self, row: &[u8], depth: usize, zero_point: i32) -> i32 {
        let zeros = zero_point * depth as i32;
        match self.element {
            Element::Unsigned => row[..depth].iter().map(|&x| i32::from(x)).sum::<i32>() - zeros,
            Element::Signed => {
                row[..depth].iter().map(|&x| i32::from(x as i8)).sum::<i32>() - zeros
            }
            Element::Wide => row[..2 * depth]
                .chunks_exact(2)
                .map(|x| i32::from(i16::from_ne_bytes([x[0], x[1]])))
                .sum(),
        }
    }

    /// Computes a tile; see [`Tile`]. `a` holds rows from its start on.
    pub(super) fn run(
        &self,
        (rows, vectors): (usize, usize),
        (a, a_stride): (&[u8], usize),
        b: &[i8],
        start: &[i32],
        out: &mut [i32],
    ) {
        let row = self.depth_step * self.element.bytes();
        let steps = a_stride / row;
        assert!(vectors <= self.most_vectors() && rows <= self.most_rows_of(vectors));
        assert!(rows * a_stride <= a.len());
        assert!(steps * vectors * self.lanes * self.depth_step <= b.len());
        assert!(vectors * self.lanes <= start.len());
        assert!(rows * vectors * self.lanes <= out.len());
        let tile = Tile {
            a: a.as_ptr(),
            a_stride,
            b: b.as_ptr(),
            steps,
            start: start.as_ptr(),
            out: out.as_mut_ptr(),
        };
        // SAFETY: `new` picks a kernel whose instructions the ISA's token proves; the operands
        // were checked above.
        unsafe { (self.run)((rows, vectors), &tile) }
    }
}

/// Calls `$tile::<VECTORS, ROWS>` for run-time counts of vectors and rows.
macro_rules! dispatch {
    ($shape:expr, $tile:ident($args:expr), { $($vectors:literal: [$($rows:literal)*])* }) => {
        match ($shape.1, $shape.0) {
            $($(($vectors, $rows) => $tile::<$vectors, $rows>($args),)*)*
            _ => unreachable!("no tile of this shape"),
        }
    };
}
pub(super) use dispatch;
