//! Merges the sources of settings: the file, then `DQLITED_` variables, then flags; the later wins.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::failure::Failure;
use crate::flags::{self, Effect, Flag, VARIABLE_PREFIX};
use crate::nearest::nearest;
use crate::urls::{self, Url};
use crate::{file, values};

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A key of the configuration file (its path, the key as written there).
    File(String, String),
    /// The environment.
    Variable,
    /// The command line.
    Flag,
}

/// A value and where it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// As text.
    pub text: String,
    /// Where.
    pub source: Source,
    /// The name under which it was given (an older one perhaps).
    pub name: &'static str,
}

/// The merged settings, each value readable by its kind.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, Given>,
    /// Lines for the log: what was passed over and why.
    pub notices: Notices,
}

/// Lines for the log about settings that were taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// Good to know.
    pub infos: Vec<String>,
    /// Probably not what was meant, or dangerous.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads the three sources. `flags` are the command line's, in order; `variables` the whole environment.
    pub fn read(
        flags: Vec<(&'static str, String)>,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, Failure> {
        let mut settings = Settings::default();
        let variables = ours(variables, &mut settings.notices.warnings);
        let path = flags
            .iter()
            .rev()
            .find(|(name, _)| *name == "config-file")
            .map(|(_, text)| text.clone())
            .or_else(|| {
                variables.iter().find(|(name, _)| *name == "config-file").map(|(_, text)| text.clone())
            })
            .filter(|path| !path.is_empty());
        let mut counts = [0; 3];
        if let Some(path) = &path {
            for (flag, key, text) in file::read(path)? {
                counts[0] += 1;
                settings.put(flag, text, Source::File(path.clone(), key))?;
            }
        }
        for (name, text) in variables {
            counts[1] += 1;
            settings.put(name, text, Source::Variable)?;
        }
        for (name, text) in flags {
            counts[2] += 1;
            settings.put(name, text, Source::Flag)?;
        }
        if let Some(path) = path {
            let [keys, variables, flags] = counts;
            let text = format!(
                "settings: {keys} from {path}, then {variables} from variables, then {flags} from flags; the later wins"
            );
            settings.notices.infos.insert(0, text);
        }
        Ok(settings)
    }

    fn put(&mut self, name: &'static str, text: String, source: Source) -> Result<(), Failure> {
        let flag = flags::find(name).expect("names come from the table");
        let target = match flag.effect {
            Effect::OldNameOf(newer) => newer,
            _ => name,
        };
        let given = Given { text, source, name };
        // An empty text unsets, as etcd's empty flags do.
        if !given.text.is_empty()
            && let Err(fault) = flag.check(&given.text)
        {
            return Err(Failure::wrong_call(format!("{}: {fault}", given.label())));
        }
        match flag.effect {
            Effect::Used => {}
            Effect::OldNameOf(newer) => {
                self.notices.infos.push(format!("{}: this is now called --{newer}", given.label()));
            }
            Effect::None(why) => {
                self.notices
                    .infos
                    .push(format!("{}: taken, but it changes nothing here: {why}", given.label()));
            }
            Effect::DefaultOnly(why) if is_default(flag, &given.text) => {
                let _ = why;
            }
            Effect::DefaultOnly(why) => {
                let allowed = match flag.default {
                    "" => "nothing".to_string(),
                    default => format!("{default:?}"),
                };
                return Err(Failure::wrong_call(format!(
                    "{}: {:?} cannot be had, only {allowed}: {why}",
                    given.label(),
                    given.text
                )));
            }
        }
        if given.text.is_empty() {
            self.given.remove(target);
        } else {
            self.given.insert(target, given);
        }
        Ok(())
    }

    /// Whether the setting was given anywhere.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// A fault of this setting, named as the user wrote it.
    pub fn fault(&self, name: &str, fault: impl AsRef<str>) -> Failure {
        let label = self.given.get(name).map_or_else(|| format!("--{name}"), Given::label);
        Failure::wrong_call(format!("{label}: {}", fault.as_ref()))
    }

    /// The value as text: what was given or else the default.
    pub fn text(&self, name: &str) -> &str {
        match self.given.get(name) {
            Some(given) => &given.text,
            None => flags::find(name).expect("names come from the table").default,
        }
    }

    /// The value, or nothing where it is empty.
    pub fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_string)
    }

    /// A boolean.
    pub fn boolean(&self, name: &str) -> Result<bool, Failure> {
        values::boolean(self.text(name)).map_err(|fault| self.fault(name, fault))
    }

    /// A whole number up to `max`.
    pub fn unsigned(&self, name: &str, max: u64) -> Result<u64, Failure> {
        values::unsigned(self.text(name), max).map_err(|fault| self.fault(name, fault))
    }

    /// A whole number of 32 bits.
    pub fn small(&self, name: &str) -> Result<u32, Failure> {
        let number = self.unsigned(name, u64::from(u32::MAX))?;
        Ok(u32::try_from(number).expect("bounded in the line above"))
    }

    /// A whole number with a sign.
    pub fn signed(&self, name: &str) -> Result<i64, Failure> {
        values::signed(self.text(name)).map_err(|fault| self.fault(name, fault))
    }

    /// A duration.
    pub fn duration(&self, name: &str) -> Result<Duration, Failure> {
        values::duration(self.text(name)).map_err(|fault| self.fault(name, fault))
    }

    /// A list of URLs, each of which must pass `check`.
    pub fn urls(&self, name: &str, check: fn(&Url) -> Result<(), String>) -> Result<Vec<Url>, Failure> {
        let urls = urls::list(self.text(name)).map_err(|fault| self.fault(name, fault))?;
        for url in &urls {
            check(url).map_err(|fault| self.fault(name, fault))?;
        }
        Ok(urls)
    }
}

impl Given {
    /// What the user must look at: the flag, the variable, or the file and its key.
    fn label(&self) -> String {
        match &self.source {
            Source::Flag => format!("--{}", self.name),
            Source::Variable => flags::find(self.name).expect("names come from the table").variable(),
            Source::File(path, key) => format!("{path}: {key}"),
        }
    }
}

fn is_default(flag: &Flag, text: &str) -> bool {
    let same = match flag.kind {
        flags::Kind::Bool => values::boolean(text) == values::boolean(flag.default),
        _ => text == flag.default,
    };
    same || text.is_empty()
}

/// The settings among the variables (empty ones count as absent, as in etcd), and a line for each that looks like one
/// and is none.
fn ours(
    variables: impl IntoIterator<Item = (String, String)>,
    warnings: &mut Vec<String>,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut variables: Vec<_> = variables
        .into_iter()
        .filter(|(name, text)| name.starts_with(VARIABLE_PREFIX) && !text.is_empty())
        .collect();
    variables.sort();
    for (name, text) in variables {
        match flags::all().find(|flag| flag.variable() == name) {
            Some(flag) => found.push((flag.name, text)),
            None => {
                let known: Vec<String> = flags::all().map(Flag::variable).collect();
                let meant = nearest(&name, known.iter().map(String::as_str))
                    .map(|meant| format!(" (is {meant} meant?)"))
                    .unwrap_or_default();
                warnings.push(format!(
                    "{name}: there is no setting of this name{meant}; the variable is passed over"
                ));
            }
        }
    }
    found
}
