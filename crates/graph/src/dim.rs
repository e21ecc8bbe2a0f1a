//! Symbolic sizes: `n`, `n + past`, `floor(n / 2)`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Sizes given to symbols.
pub type Bindings = BTreeMap<Arc<str>, i64>;

/// One size of a shape: an integer, or an expression over symbols in a normal form
/// (a constant plus terms sorted by atom), so that equal expressions compare equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dim {
    constant: i64,
    terms: Vec<(Atom, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Atom {
    Symbol(Arc<str>),
    Mul(Box<Dim>, Box<Dim>),
    FloorDiv(Box<Dim>, Box<Dim>),
    Max(Box<Dim>, Box<Dim>),
    Min(Box<Dim>, Box<Dim>),
}

impl Dim {
    /// The size called `name`.
    pub fn symbol(name: impl Into<Arc<str>>) -> Dim {
        Dim::atom(Atom::Symbol(name.into()))
    }

    fn atom(atom: Atom) -> Dim {
        Dim { constant: 0, terms: vec![(atom, 1)] }
    }

    /// The value, when no symbol is left in it and it is not negative.
    pub fn fixed(&self) -> Option<usize> {
        self.as_i64().and_then(|v| usize::try_from(v).ok())
    }

    /// The value, when no symbol is left in it.
    pub fn as_i64(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.constant)
    }

    /// The name, when this is a lone symbol.
    pub fn as_symbol(&self) -> Option<&Arc<str>> {
        match self.terms.as_slice() {
            [(Atom::Symbol(name), 1)] if self.constant == 0 => Some(name),
            _ => None,
        }
    }

    /// Whether this can't be negative, whatever sizes its symbols have.
    pub fn is_nonnegative(&self) -> bool {
        let never_negative = |atom: &Atom| match atom {
            Atom::Symbol(_) => true,
            Atom::Mul(a, b) | Atom::FloorDiv(a, b) | Atom::Min(a, b) => {
                a.is_nonnegative() && b.is_nonnegative()
            }
            Atom::Max(a, b) => a.is_nonnegative() || b.is_nonnegative(),
        };
        self.constant >= 0 && self.terms.iter().all(|(a, k)| *k >= 0 && never_negative(a))
    }

    fn combine(&self, other: &Dim, sign: i64) -> Dim {
        let mut terms: BTreeMap<Atom, i64> = self.terms.iter().cloned().collect();
        for (atom, k) in &other.terms {
            let entry = terms.entry(atom.clone()).or_insert(0);
            *entry = entry.saturating_add(k.saturating_mul(sign));
        }
        Dim {
            constant: self.constant.saturating_add(other.constant.saturating_mul(sign)),
            terms: terms.into_iter().filter(|(_, k)| *k != 0).collect(),
        }
    }

    /// Product. A constant factor is distributed; two symbolic factors become one atom.
    #[must_use]
    pub fn mul(&self, other: &Dim) -> Dim {
        let (k, rest) = match (self.as_i64(), other.as_i64()) {
            (Some(k), _) => (k, other),
            (_, Some(k)) => (k, self),
            _ => {
                let (a, b) = if self <= other { (self, other) } else { (other, self) };
                return Dim::atom(Atom::Mul(Box::new(a.clone()), Box::new(b.clone())));
            }
        };
        if k == 0 {
            return Dim::from(0usize);
        }
        Dim {
            constant: rest.constant.saturating_mul(k),
            terms: rest.terms.iter().map(|(a, c)| (a.clone(), c.saturating_mul(k))).collect(),
        }
    }

    /// Quotient rounded down. Division by zero stays an expression, which no binding resolves.
    #[must_use]
    pub fn floor_div(&self, other: &Dim) -> Dim {
        match (self.as_i64(), other.as_i64()) {
            (_, Some(1)) => self.clone(),
            (Some(a), Some(b)) if b != 0 => Dim::constant(a.div_euclid(b)),
            (None, Some(b))
                if b > 1 && self.constant % b == 0 && self.terms.iter().all(|t| t.1 % b == 0) =>
            {
                Dim {
                    constant: self.constant / b,
                    terms: self.terms.iter().map(|(a, k)| (a.clone(), k / b)).collect(),
                }
            }
            _ if self == other => Dim::from(1usize),
            _ => Dim::atom(Atom::FloorDiv(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// Quotient rounded up.
    #[must_use]
    pub fn ceil_div(&self, other: &Dim) -> Dim {
        (self + &(other - &Dim::from(1usize))).floor_div(other)
    }

    /// The larger of two sizes.
    #[must_use]
    pub fn at_least(&self, other: &Dim) -> Dim {
        match (self.as_i64(), other.as_i64()) {
            (Some(a), Some(b)) => Dim::constant(a.max(b)),
            _ if self == other => self.clone(),
            _ => Dim::atom(Atom::Max(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// The smaller of two sizes.
    #[must_use]
    pub fn at_most(&self, other: &Dim) -> Dim {
        match (self.as_i64(), other.as_i64()) {
            (Some(a), Some(b)) => Dim::constant(a.min(b)),
            _ if self == other => self.clone(),
            _ => Dim::atom(Atom::Min(Box::new(self.clone()), Box::new(other.clone()))),
        }
    }

    /// A number; a negative one is no size, but may stand in the way to one.
    pub fn constant(constant: i64) -> Dim {
        Dim { constant, terms: Vec::new() }
    }

    /// This size with bound symbols replaced by their values.
    #[must_use]
    pub fn bind(&self, bindings: &Bindings) -> Dim {
        let mut sum = Dim::constant(self.constant);
        for (atom, k) in &self.terms {
            let value = match atom {
                Atom::Symbol(name) => match bindings.get(name) {
                    Some(v) => Dim::constant(*v),
                    None => Dim::atom(atom.clone()),
                },
                Atom::Mul(a, b) => a.bind(bindings).mul(&b.bind(bindings)),
                Atom::FloorDiv(a, b) => a.bind(bindings).floor_div(&b.bind(bindings)),
                Atom::Max(a, b) => a.bind(bindings).at_least(&b.bind(bindings)),
                Atom::Min(a, b) => a.bind(bindings).at_most(&b.bind(bindings)),
            };
            sum = &sum + &value.mul(&Dim::constant(*k));
        }
        sum
    }

    /// Adds the names of the symbols in this size to `names`.
    pub fn symbols(&self, names: &mut std::collections::BTreeSet<Arc<str>>) {
        for (atom, _) in &self.terms {
            match atom {
                Atom::Symbol(name) => {
                    names.insert(name.clone());
                }
                Atom::Mul(a, b) | Atom::FloorDiv(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    a.symbols(names);
                    b.symbols(names);
                }
            }
        }
    }
}

impl From<usize> for Dim {
    fn from(v: usize) -> Dim {
        Dim::constant(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl PartialEq<usize> for Dim {
    fn eq(&self, other: &usize) -> bool {
        self.fixed() == Some(*other)
    }
}

macro_rules! operator {
    ($trait:ident $fn:ident $sign:literal) => {
        impl std::ops::$trait for &Dim {
            type Output = Dim;
            fn $fn(self, other: &Dim) -> Dim {
                self.combine(other, $sign)
            }
        }
        impl std::ops::$trait for Dim {
            type Output = Dim;
            fn $fn(self, other: Dim) -> Dim {
                self.combine(&other, $sign)
            }
        }
        impl std::ops::$trait<usize> for Dim {
            type Output = Dim;
            fn $fn(self, other: usize) -> Dim {
                self.combine(&Dim::from(other), $sign)
            }
        }
    };
}
operator!(Add add 1);
operator!(Sub sub -1);

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "{}", self.constant);
        }
        for (i, (atom, k)) in self.terms.iter().enumerate() {
            match (i, *k < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            if k.unsigned_abs() != 1 {
                write!(f, "{}*", k.unsigned_abs())?;
            }
            match atom {
                Atom::Symbol(name) => f.write_str(name)?,
                Atom::Mul(a, b) => write!(f, "({a})*({b})")?,
                Atom::FloorDiv(a, b) => write!(f, "floor(({a})/({b}))")?,
                Atom::Max(a, b) => write!(f, "max({a}, {b})")?,
                Atom::Min(a, b) => write!(f, "min({a}, {b})")?,
            }
        }
        match self.constant {
            0 => Ok(()),
            c if c < 0 => write!(f, " - {}", c.unsigned_abs()),
            c => write!(f, " + {c}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_expressions_compare_equal() {
        let (n, past) = (Dim::symbol("n"), Dim::symbol("past"));
        assert_eq!(&n + &past, &past + &n);
        assert_eq!((&n + &n) - n.clone(), n);
        assert_eq!(n.mul(&past), past.mul(&n));
        assert_eq!(n.mul(&Dim::from(4)).floor_div(&Dim::from(2)), n.mul(&Dim::from(2)));
        assert_eq!((n.clone() + 3).to_string(), "n + 3");
    }

    #[test]
    fn binding_resolves_every_kind_of_expression() {
        let n = Dim::symbol("n");
        let half = (n.clone() + 1).floor_div(&Dim::from(2)).at_least(&Dim::from(3));
        let at = |v| half.bind(&Bindings::from([("n".into(), v)])).fixed();
        assert_eq!(at(9), Some(5));
        assert_eq!(at(2), Some(3));
        assert_eq!(half.fixed(), None);
        assert_eq!((n - Dim::from(5)).bind(&Bindings::from([("n".into(), 2)])).fixed(), None);
    }
}
