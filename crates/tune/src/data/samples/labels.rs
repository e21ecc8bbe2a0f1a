//! From what classes are called to their numbers.

use std::collections::{BTreeMap, BTreeSet};

/// The classes of some data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes {
    /// How many there are.
    pub count: usize,
    /// Their names, in their order; none where they are numbers.
    pub names: Vec<String>,
    numbers: BTreeMap<String, u32>,
}

/// The most classes.
const MOST: u32 = 1 << 20;

impl Classes {
    /// Of what is called so: numbers are what they say, other names are counted in their order.
    pub fn of<'a>(called: impl IntoIterator<Item = &'a str>) -> Classes {
        let called: BTreeSet<&str> = called.into_iter().collect();
        let number = |name: &&str| name.parse::<u32>().ok().filter(|n| *n < MOST);
        let numbers: Option<Vec<u32>> = called.iter().map(number).collect();
        let (names, numbers) = match numbers {
            Some(numbers) => (Vec::new(), numbers),
            None => {
                let names = called.iter().map(|name| name.to_string()).collect();
                (names, (0..called.len() as u32).collect())
            }
        };
        let count = numbers.iter().max().map_or(0, |most| *most as usize + 1);
        let numbers = called.into_iter().map(str::to_string).zip(numbers).collect();
        Classes { count, names, numbers }
    }

    /// The number of the class that is called so.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_counted_and_numbers_kept() {
        let named = Classes::of(["dog", "cat", "dog"]);
        assert_eq!((named.count, named.number("cat"), named.number("dog")), (2, Some(0), Some(1)));
        assert_eq!(named.names, ["cat", "dog"]);
        let numbered = Classes::of(["3", "0", "10"]);
        assert_eq!((numbered.count, numbered.number("10")), (11, Some(10)));
        assert!(numbered.names.is_empty() && numbered.number("cat").is_none());
    }
}
