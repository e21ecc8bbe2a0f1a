//! GPT-2's spelling of bytes as printable characters: `Ġthe` is the bytes of ` the`.

use std::sync::LazyLock;

/// The character that stands for each byte.
pub(super) static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut spare = (256..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        byte @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(byte),
        _ => spare.next().unwrap_or_default(),
    })
});

/// The byte that each character below 512 stands for.
static BYTES: LazyLock<[Option<u8>; 512]> = LazyLock::new(|| {
    let mut bytes = [None; 512];
    for (byte, &char) in CHARS.iter().enumerate() {
        bytes[char as usize] = Some(byte as u8);
    }
    bytes
});

/// Appends the bytes that `text` spells; `text` itself where it holds other characters.
pub(super) fn decode(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for char in text.chars() {
        let Some(&Some(byte)) = BYTES.get(char as usize) else {
            out.truncate(start);
            out.extend_from_slice(text.as_bytes());
            return;
        };
        out.push(byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        assert_eq!(CHARS[b' ' as usize], 'Ġ');
        assert_eq!(CHARS[b'\n' as usize], 'Ċ');
        let text: String = CHARS.iter().collect();
        let mut bytes = Vec::new();
        decode(&text, &mut bytes);
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        bytes.clear();
        decode("Ġ→", &mut bytes);
        assert_eq!(bytes, "Ġ→".as_bytes());
    }
}
