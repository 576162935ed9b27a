//! etcd's rules for `key` and `range_end`, turned into a half-open interval of names.

use std::borrow::Cow;

/// The names that a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interval<'a> {
    /// First name.
    pub start: &'a [u8],
    /// The first name behind the interval; `None` when it has no end.
    pub end: Option<Cow<'a, [u8]>>,
    /// Exactly the name `start`.
    pub is_single: bool,
}

impl<'a> Interval<'a> {
    /// Reads etcd's pair: no `range_end` is the one key, `\0` is everything from `key` on. An end at or before the start
    /// is an ordinary interval that holds nothing.
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Interval<'a> {
        match range_end {
            [] => {
                let mut behind = Vec::with_capacity(key.len() + 1);
                behind.extend_from_slice(key);
                behind.push(0);
                Interval { start: key, end: Some(Cow::Owned(behind)), is_single: true }
            }
            [0] => Interval { start: key, end: None, is_single: false },
            end => Interval { start: key, end: Some(Cow::Borrowed(end)), is_single: false },
        }
    }

    /// The end as SQL gets it: NULL for none.
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_end_nul_has_no_end_and_two_nuls_are_an_ordinary_end() {
        assert_eq!(Interval::new(b"a", b"\0").end(), None);
        assert_eq!(Interval::new(b"a", b"\0\0").end(), Some(&b"\0\0"[..]));
        assert_eq!(Interval::new(b"a", b"").end(), Some(&b"a\0"[..]));
        assert!(Interval::new(b"a", b"").is_single);
        assert!(!Interval::new(b"a", b"a").is_single);
    }
}
