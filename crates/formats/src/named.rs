//! Named things in an order, each name once.

use std::collections::HashMap;
use std::fmt;
use std::ops::Index;

/// A map from names that keeps the order in which they came.
#[derive(Clone)]
pub struct Named<T> {
    entries: Vec<(String, T)>,
    index: HashMap<String, usize>,
}

impl<T> Named<T> {
    /// What has this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.index.get(name).map(|&i| &self.entries[i].1)
    }

    /// Whether something has this name.
    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &T)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts `value` at the end, or in the place of the one that has this name; gives that back.
    pub fn insert(&mut self, name: impl Into<String>, value: T) -> Option<T> {
        let name = name.into();
        if let Some(&i) = self.index.get(&name) {
            return Some(std::mem::replace(&mut self.entries[i].1, value));
        }
        self.index.insert(name.clone(), self.entries.len());
        self.entries.push((name, value));
        None
    }

    /// Keeps those that `keep` says.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &T) -> bool) {
        self.entries.retain(|(name, value)| keep(name, value));
        let names = self.entries.iter().enumerate();
        self.index = names.map(|(i, (name, _))| (name.clone(), i)).collect();
    }
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named { entries: Vec::new(), index: HashMap::new() }
    }
}

/// # Panics
/// Where nothing has the name.
impl<T> Index<&str> for Named<T> {
    type Output = T;
    fn index(&self, name: &str) -> &T {
        self.get(name).unwrap_or_else(|| panic!("nothing is named '{name}'"))
    }
}

impl<T: fmt::Debug> fmt::Debug for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for Named<T> {
    fn eq(&self, other: &Named<T>) -> bool {
        self.entries == other.entries
    }
}

impl<T> IntoIterator for Named<T> {
    type Item = (String, T);
    type IntoIter = std::vec::IntoIter<(String, T)>;
    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_names_are_unique() {
        let mut named = Named::default();
        assert_eq!(named.insert("b", 1), None);
        assert_eq!(named.insert("a", 2), None);
        assert_eq!(named.insert("b", 3), Some(1));
        assert_eq!(named.iter().collect::<Vec<_>>(), [("b", &3), ("a", &2)]);
        named.retain(|name, _| name == "a");
        assert_eq!((named["a"], named.get("b"), named.len()), (2, None, 1));
    }
}
