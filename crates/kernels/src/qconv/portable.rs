//! Tiles in plain Rust.

use super::micro::{Element, Micro, Tile, dispatch};

const LANES: usize = 8;

pub(super) const MICRO: Micro = Micro {
    element: Element::Wide,
    lanes: LANES,
    depth_step: 1,
    most_rows: &[4],
    flips: false,
    lines: false,
    seconds: false,
    run,
};

unsafe fn run(shape: (usize, usize), args: &Tile) {
    // SAFETY: the caller's promise.
    unsafe { dispatch!(shape, tile(args), { 1: [1 2 3 4] }) }
}

unsafe fn tile<const VECTORS: usize, const ROWS: usize>(args: &Tile) {
    let mut acc = [[0i32; LANES]; ROWS];
    // SAFETY: operands are as `Tile` says.
    unsafe {
        let start = args.start.cast::<[i32; LANES]>().read();
        acc.fill(start);
        for step in 0..args.steps {
            let b = args.b.add(step * LANES).cast::<[i8; LANES]>().read();
            for (row, acc) in acc.iter_mut().enumerate() {
                let a = args.a.add(row * args.a_stride).cast::<i16>().add(step).read_unaligned();
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc = acc.wrapping_add(i32::from(a) * i32::from(b));
                }
            }
        }
        args.out.cast::<[[i32; LANES]; ROWS]>().write(acc);
    }
}
