//! The one table of all settings of `dqlited start`: name, kind, default, meaning and effect.
//!
//! The command line, the `DQLITED_` variables, the keys of the configuration file, the checks of each value and
//! `docs/config.md` are all made from it.

mod etcd_only;
mod table;

use crate::values;

/// How a value is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`; the bare flag means `true`.
    Bool,
    /// A whole number from 0 to the bound.
    Unsigned(u64),
    /// A whole number, perhaps negative.
    Signed,
    /// A duration in Go's syntax; a whole number in a file counts nanoseconds, as in etcd.
    Duration,
    /// A list of URLs, split at commas.
    Urls,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// What a setting does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What its meaning says.
    Used,
    /// An older name of this one.
    OldNameOf(&'static str),
    /// Taken, and nothing comes of it; the text says why.
    None(&'static str),
    /// Only its default is taken: to pass over another value would break what the value promises.
    DefaultOnly(&'static str),
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Its name: `--name`, `DQLITED_NAME`, and the key in a file.
    pub name: &'static str,
    /// How its value is read.
    pub kind: Kind,
    /// Its default as text; empty where there is none.
    pub default: &'static str,
    /// What it is for.
    pub meaning: &'static str,
    /// What it does here.
    pub effect: Effect,
}

impl Flag {
    /// The environment variable of the same meaning.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Reads a value only to see whether it can be read; the fault in words otherwise.
    pub fn check(&self, text: &str) -> Result<(), String> {
        match self.kind {
            Kind::Text => Ok(()),
            Kind::Bool => values::boolean(text).map(|_| ()),
            Kind::Unsigned(max) => values::unsigned(text, max).map(|_| ()),
            Kind::Signed => values::signed(text).map(|_| ()),
            Kind::Duration => values::duration(text).map(|_| ()),
            Kind::Urls => crate::urls::list(text).map(|_| ()),
            Kind::Choice(words) if words.contains(&text) => Ok(()),
            Kind::Choice(words) => Err(format!("{text:?} is none of {}", words.join(", "))),
        }
    }

    /// What stands for the value in help texts.
    pub fn value_name(&self) -> &'static str {
        match self.kind {
            Kind::Text if self.name.ends_with("-file") => "FILE",
            Kind::Text if self.name.ends_with("-dir") => "DIR",
            Kind::Text | Kind::Choice(_) => "TEXT",
            Kind::Bool => "BOOL",
            Kind::Unsigned(_) | Kind::Signed => "NUMBER",
            Kind::Duration => "DURATION",
            Kind::Urls => "URLS",
        }
    }

    /// The meaning with the words that are allowed and the default, for help texts and documents.
    pub fn description(&self) -> String {
        let mut text = self.meaning.to_string();
        if let Kind::Choice(words) = self.kind {
            text = format!("{text} One of {}.", words.join(", "));
        }
        if !self.default.is_empty() {
            text = format!("{text} [default: {}]", self.default);
        }
        text
    }
}

/// Every variable of the program begins so.
pub const VARIABLE_PREFIX: &str = "DQLITED_";

/// Settings under one heading.
pub struct Group {
    /// The heading.
    pub title: &'static str,
    /// Its settings.
    pub flags: &'static [Flag],
}

/// All settings, in the order of the documents.
pub const GROUPS: &[Group] = &[
    Group { title: "Member", flags: table::MEMBER },
    Group { title: "Cluster", flags: table::CLUSTER },
    Group { title: "TLS", flags: table::TLS },
    Group { title: "Limits", flags: table::LIMITS },
    Group { title: "Compaction and watches", flags: table::HISTORY },
    Group { title: "Logs", flags: table::LOGS },
    Group { title: "Unsafe", flags: table::UNSAFE },
    Group { title: "Taken for etcd's sake", flags: etcd_only::FLAGS },
];

/// All settings.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

/// The setting of this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_name_stands_once_and_its_default_can_be_read() {
        let mut seen = BTreeSet::new();
        for flag in all() {
            assert!(seen.insert(flag.name), "{} stands twice", flag.name);
            if !flag.default.is_empty() {
                assert_eq!(flag.check(flag.default), Ok(()), "{}", flag.name);
            }
            assert!(flag.meaning.ends_with('.'), "{}", flag.name);
            if let Effect::OldNameOf(name) = flag.effect {
                assert_eq!(find(name).expect("the newer name exists").kind, flag.kind, "{}", flag.name);
            }
        }
    }
}
