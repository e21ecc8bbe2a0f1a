//! A hash that is the same on every machine and in every version.

/// FNV-1a of 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): tells apart what differs by
/// accident, not what was made to look the same.
#[derive(Clone, Copy, Debug)]
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv::new()
    }
}

impl Fnv {
    /// Of nothing.
    pub fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    /// Takes in `bytes` and how many there are, so that pieces can't run into each other.
    pub fn take(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The number.
    pub fn value(self) -> u64 {
        self.0
    }

    /// Sixteen hexadecimal digits.
    pub fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(Fnv::new().text(), "cbf29ce484222325");
        // FNV-1a of "a" followed by the eight bytes of its length.
        let mut a = Fnv::new();
        a.take(b"a");
        let mut by_hand = 0xaf63_dc4c_8601_ec8c_u64;
        for byte in [1u64, 0, 0, 0, 0, 0, 0, 0] {
            by_hand = (by_hand ^ byte).wrapping_mul(0x0100_0000_01b3);
        }
        assert_eq!(a.text(), format!("{by_hand:016x}"));
    }
}
