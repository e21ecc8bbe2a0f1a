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
/// elements in each of `segments.0` segments, `segments.1` bytes apart. `b` holds for each
/// segment, step and vector `lanes * depth_step` weights, the depth innermost, and then the same
/// for each of `seconds`.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "which are in use depends on the architecture")]
pub(super) struct Tile<'a> {
    pub(super) a: *const u8,
    pub(super) a_stride: usize,
    /// One, if the kernel does not read [`Micro::lines`].
    pub(super) segments: (usize, usize),
    pub(super) b: *const i8,
    pub(super) steps: usize,
    /// None, if the kernel does not do [`Micro::seconds`].
    pub(super) seconds: &'a [Second],
    /// What makes elements of the bytes of `a`; 0 where [`Micro::flips`] is not set.
    pub(super) flip: u8,
    /// `vectors * lanes` first values.
    pub(super) start: *const i32,
    /// Rows of `vectors * lanes` results, one after another.
    pub(super) out: *mut i32,
}

/// A step that is done a second time, with what a byte did not hold of its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Second {
    pub(super) segment: usize,
    /// Where in the segment it starts, in bytes.
    pub(super) at: usize,
}

/// The rows of the left matrix that tiles read, from the start of `bytes` on.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) kind: Byte,
    /// Bytes from row to row.
    pub(super) stride: usize,
    /// Segments of a row, and the bytes from one to the next.
    pub(super) segments: (usize, usize),
    /// Bytes of a segment.
    pub(super) segment_bytes: usize,
}

impl Rows<'_> {
    /// Those from row `row` on.
    pub(super) fn from(self, row: usize) -> Self {
        Self { bytes: &self.bytes[row * self.stride..], ..self }
    }
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
    /// Whether tiles read the input's own bytes, and make elements of them.
    pub(super) flips: bool,
    /// Whether rows may be patches of an image whose lines are segments.
    pub(super) lines: bool,
    /// Whether steps may be done a second time.
    pub(super) seconds: bool,
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
        self.element != Element::Wide && self.gathered_flip(kind) == 0
    }

    /// What gathering does to the bytes of an input of type `kind`.
    pub(super) fn gathered_flip(&self, kind: Byte) -> u8 {
        if self.flips { 0 } else { self.element.flip(kind) }
    }

    /// What tiles do to them.
    pub(super) fn tile_flip(&self, kind: Byte) -> u8 {
        if self.flips { self.element.flip(kind) } else { 0 }
    }

    /// The sum of a gathered row's values less the zero point (wide elements are less it already).
    pub(super) fn row_sum(&self, row: &[u8], depth: usize, (kind, zero_point): (Byte, i32)) -> i32 {
        let zeros = zero_point * depth as i32;
        let flip = self.tile_flip(kind);
        match self.element {
            Element::Unsigned => {
                row[..depth].iter().map(|&x| i32::from(x ^ flip)).sum::<i32>() - zeros
            }
            Element::Signed => {
                row[..depth].iter().map(|&x| i32::from((x ^ flip) as i8)).sum::<i32>() - zeros
            }
            Element::Wide => row[..2 * depth]
                .chunks_exact(2)
                .map(|x| i32::from(i16::from_ne_bytes([x[0], x[1]])))
                .sum(),
        }
    }

    /// Computes a tile; see [`Tile`].
    pub(super) fn run(
        &self,
        (rows, vectors): (usize, usize),
        a: Rows,
        (b, seconds): (&[i8], &[Second]),
        start: &[i32],
        out: &mut [i32],
    ) {
        let steps = a.segment_bytes / (self.depth_step * self.element.bytes());
        let (segments, apart) = a.segments;
        assert!(vectors <= self.most_vectors() && rows <= self.most_rows_of(vectors));
        assert!(rows > 0 && segments > 0 && (segments == 1 || self.lines));
        assert!((rows - 1) * a.stride + (segments - 1) * apart + a.segment_bytes <= a.bytes.len());
        assert!(seconds.is_empty() || self.seconds);
        let step = self.depth_step * self.element.bytes();
        let inside = |x: &Second| x.segment < segments && x.at + step <= a.segment_bytes;
        debug_assert!(seconds.iter().all(inside));
        let steps_of_b = segments * steps + seconds.len();
        assert!(steps_of_b * vectors * self.lanes * self.depth_step <= b.len());
        assert!(vectors * self.lanes <= start.len());
        assert!(rows * vectors * self.lanes <= out.len());
        let tile = Tile {
            a: a.bytes.as_ptr(),
            a_stride: a.stride,
            segments: a.segments,
            flip: self.tile_flip(a.kind),
            b: b.as_ptr(),
            steps,
            seconds,
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
