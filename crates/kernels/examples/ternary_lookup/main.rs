//! One row by ternary weights: by table lookup, and by the dot products that TQ2_0 is multiplied with.
//!
//! `cargo run --release -p kinglet-kernels --example ternary_lookup`
//!
//! Tables of sums are made of each row once, as T-MAC and BitNet do, but lose nothing: entries are
//! 16 bits. AVX-512 looks three weights up at once (27 entries, `vpermw`, three codes of 5 bits
//! in a word: 1.8 bits a weight), AVX2 two (9 entries, `vpshufb` of lower and upper bytes, two codes
//! of 4 bits in a byte). Blocks are as long as suits the lookups, 36 elements.
//!
//! On a Zen 4 server, GMAC/s (GB/s), dot products of 2.1 bits a weight against lookups:
//!
//! | | in the cache | from memory | from memory, two threads |
//! |---|--:|--:|--:|
//! | AVX-512, dot products | 162 (42) | 73 (19) | 166 (43) |
//! | AVX-512, lookup | 186 (43) | 77 (18) | 136 (31) |
//! | AVX2, dot products | 85 (22) | 66 (17) | 137 (35) |
//! | AVX2, lookup | 83 (21) | 51 (13) | 98 (25) |
//!
//! Lookups win on AVX-512 by one thread only, by 15 % in the cache and 5 % from memory; two threads, which a
//! token has, read dot products' weights 1.2 times as fast. And 36 elements are a length that suits nothing
//! else: of blocks of 32 the last lookup is two thirds full, which makes 1.9 bits a weight. So weights are
//! multiplied by dot products.

#[cfg(target_arch = "x86_64")]
mod x86;

fn main() {
    #[cfg(target_arch = "x86_64")]
    x86::main();
    #[cfg(not(target_arch = "x86_64"))]
    println!("the lookups are for x86-64");
}
