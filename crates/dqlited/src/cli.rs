//! The command line: subcommands, their flags, and what is said about a wrong one.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::failure::Failure;
use crate::flags::{self, Effect, Flag, Kind};
use crate::nearest::nearest;
use crate::status::{Output, StatusOptions};
use crate::version;

/// What the program was asked to do.
#[derive(Debug)]
pub enum Call {
    /// Run a member, with these flags in their order.
    Start(Vec<(&'static str, String)>),
    /// Show a running member.
    Status(StatusOptions),
    /// Say the versions.
    Version,
    /// Print this help or version text and end.
    Print(String),
}

/// Reads the command line (without the program's name).
pub fn parse(arguments: Vec<String>) -> Result<Call, Failure> {
    check_dashes(&arguments)?;
    let with_name = std::iter::once("dqlited".to_string()).chain(arguments.iter().cloned());
    let matches = match command().try_get_matches_from(with_name) {
        Ok(matches) => matches,
        Err(error) => return as_failure(&error, &arguments),
    };
    match matches.subcommand() {
        Some(("start", matches)) => Ok(Call::Start(given_flags(matches))),
        Some(("status", matches)) => Ok(Call::Status(status_options(matches))),
        Some(("version", _)) => Ok(Call::Version),
        _ => Ok(Call::Print(command().render_help().to_string())),
    }
}

/// The whole command, also for the documents.
pub fn command() -> Command {
    Command::new("dqlited")
        .about("A replicated SQLite that speaks the etcd v3 API")
        .version(version::OWN)
        .disable_help_subcommand(true)
        .args_override_self(true)
        .subcommand_required(false)
        .subcommand(start_command())
        .subcommand(status_command())
        .subcommand(Command::new("version").about("Prints the versions of the program and of the API"))
}

fn start_command() -> Command {
    let mut command = Command::new("start")
        .about("Runs a member")
        .long_about(
            "Runs a member. Settings have etcd's names and meanings. Each is a flag, a variable (--data-dir is \
             DQLITED_DATA_DIR) and a key of the file given by --config-file; the file is read first, then the \
             variables, then the flags, and the later wins.",
        )
        .after_help(
            "Maintenance over the etcd API (etcdctl defrag, snapshot save) runs while clients are served. A \
             defragmentation moves used pages of the database into free ones before them and cuts the file: no copy \
             is made, it needs at most 8 MiB of free disk and is refused with words when there is less; it goes in \
             small steps, between which writes go on, and waits while a backup is being read.\n\n\
             Other flags of etcd are taken too and do nothing here, each with a line in the log that says why; a \
             few are refused: docs/config.md.",
        )
        .args_override_self(true);
    for group in flags::GROUPS {
        for flag in group.flags {
            command = command.arg(as_arg(flag).help_heading(group.title));
        }
    }
    command
}

fn as_arg(flag: &'static Flag) -> Arg {
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .value_name(flag.value_name())
        .help(flag.description())
        .hide(flag.effect != Effect::Used)
        .action(ArgAction::Set)
        .allow_negative_numbers(true);
    match flag.kind {
        Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ => arg.num_args(1),
    }
}

fn status_command() -> Command {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Set)
    };
    Command::new("status")
        .about("Shows running members")
        .arg(
            text("output", "FORMAT", "How: a table for people or JSON for programs")
                .short('o')
                .value_parser(["table", "json"])
                .default_value("table"),
        )
        .arg(
            text(
                "endpoints",
                "URLS",
                "Client URLs of the members, or their --listen-client-http-urls where HTTP is served there alone; split \
                 at commas",
            )
            .default_value("http://127.0.0.1:2379"),
        )
        .arg(text("cacert", "FILE", "CA certificates (PEM) that the members' certificates must come from"))
        .arg(text("cert", "FILE", "Certificate (PEM) to show to the members"))
        .arg(text("key", "FILE", "Key (PEM) of --cert"))
        .arg(text("timeout", "DURATION", "How long to wait for each member").default_value("5s"))
        .args_override_self(true)
}

/// The given flags of the table, in the order of the command line.
fn given_flags(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let mut found: Vec<(usize, &'static str, String)> = flags::all()
        .filter_map(|flag| {
            let index = matches.index_of(flag.name)?;
            let text = matches.get_one::<String>(flag.name)?;
            Some((index, flag.name, text.clone()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, name, text)| (name, text)).collect()
}

fn status_options(matches: &ArgMatches) -> StatusOptions {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    StatusOptions {
        output: if text("output").as_deref() == Some("json") { Output::Json } else { Output::Table },
        endpoints: text("endpoints").expect("it has a default"),
        ca: text("cacert").map(Into::into),
        cert: text("cert").map(Into::into),
        key: text("key").map(Into::into),
        timeout: text("timeout").expect("it has a default"),
    }
}

/// Go programs take `-name` for `--name`; here a single dash begins short flags, so say what to write.
fn check_dashes(arguments: &[String]) -> Result<(), Failure> {
    for argument in arguments {
        let Some(name) = argument.strip_prefix('-').filter(|rest| !rest.starts_with('-')) else {
            continue;
        };
        let name = name.split('=').next().unwrap_or_default();
        if name.len() > 1 && flags::find(name).is_some() {
            return Err(Failure::wrong_call(format!("-{name}: one dash, but the name of a flag takes two"))
                .hint(format!("write --{name}")));
        }
    }
    Ok(())
}

/// clap's faults in our words.
fn as_failure(error: &clap::Error, arguments: &[String]) -> Result<Call, Failure> {
    let context = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    let name = argument.split([' ', '=']).next().unwrap_or_default().to_string();
    let value = context(ContextKind::InvalidValue).unwrap_or_default();
    let subcommand = arguments.first().filter(|first| !first.starts_with('-')).cloned();
    Err(match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Ok(Call::Print(error.render().to_string()));
        }
        ErrorKind::UnknownArgument => {
            let failure = Failure::wrong_call(format!("{name}: there is no such flag"));
            let bare = name.trim_start_matches('-');
            match (&subcommand, flags::find(bare), nearest(bare, flags_of(subcommand.as_deref()))) {
                (None, Some(_), _) => failure.hint(format!("write `dqlited start {}`", arguments.join(" "))),
                _ if !name.starts_with('-') => Failure::wrong_call(format!("{name:?} is not a flag")),
                (_, _, Some(meant)) => failure.hint(format!("is --{meant} meant?")),
                (Some(subcommand), _, None) => {
                    failure.hint(format!("`dqlited {subcommand} --help` lists them"))
                }
                (None, None, None) => failure.hint("`dqlited --help` lists them"),
            }
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            Failure::wrong_call(format!("{name:?} is not a command, expected start, status or version"))
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            Failure::wrong_call(format!("{name}: a value is missing behind it"))
        }
        ErrorKind::InvalidValue => {
            let allowed = context(ContextKind::ValidValue).unwrap_or_default();
            Failure::wrong_call(format!("{name}: {value:?} is none of {allowed}"))
        }
        _ => Failure::wrong_call(
            error.render().to_string().trim_start_matches("error: ").trim_end().to_string(),
        ),
    })
}

fn flags_of(subcommand: Option<&str>) -> Vec<&'static str> {
    match subcommand {
        Some("start") | None => flags::all().map(|flag| flag.name).collect(),
        Some("status") => vec!["output", "endpoints", "cacert", "cert", "key", "timeout"],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Call, Failure> {
        parse(line.split_whitespace().map(str::to_string).collect())
    }

    fn started(line: &str) -> Vec<(&'static str, String)> {
        match call(line) {
            Ok(Call::Start(flags)) => flags,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_come_out_as_given_and_the_last_of_one_name_wins() {
        assert_eq!(
            started("start --name a --client-cert-auth --data-dir=/x --name=b --quota-backend-bytes -1"),
            [
                ("client-cert-auth", "true".to_string()),
                ("data-dir", "/x".to_string()),
                ("name", "b".to_string()),
                ("quota-backend-bytes", "-1".to_string()),
            ]
        );
        assert_eq!(started("start --client-cert-auth=false"), [("client-cert-auth", "false".to_string())]);
        assert_eq!(started("start --log-outputs="), [("log-outputs", String::new())]);
    }

    #[test]
    fn a_wrong_line_is_answered_in_words() {
        let table = [
            (
                "start --lisen-client-urls=x",
                "error: --lisen-client-urls: there is no such flag\nhint: is --listen-client-urls meant?",
            ),
            (
                "start --qqqqqqqqqqqqqqq",
                "error: --qqqqqqqqqqqqqqq: there is no such flag\nhint: `dqlited start --help` lists them",
            ),
            (
                "start -listen-client-urls=x",
                "error: -listen-client-urls: one dash, but the name of a flag takes two\nhint: write --listen-client-urls",
            ),
            ("start -name x", "error: -name: one dash, but the name of a flag takes two\nhint: write --name"),
            ("start here", "error: \"here\" is not a flag"),
            ("start --name", "error: --name: a value is missing behind it"),
            (
                "--name=a --data-dir=b",
                "error: --name: there is no such flag\nhint: write `dqlited start --name=a --data-dir=b`",
            ),
            ("strat", "error: \"strat\" is not a command, expected start, status or version"),
            ("status -o xml", "error: --output: \"xml\" is none of table, json"),
            ("status --endpoint=x", "error: --endpoint: there is no such flag\nhint: is --endpoints meant?"),
        ];
        for (line, text) in table {
            let failure = call(line).expect_err(line);
            assert_eq!(failure.to_string(), text, "{line}");
            assert_eq!(failure.kind, crate::failure::Kind::WrongCall, "{line}");
        }
    }

    #[test]
    fn help_and_version_are_printed_and_no_failure() {
        for (line, part) in [
            ("--help", "Runs a member"),
            ("", "Runs a member"),
            ("start --help", "--listen-client-urls"),
            ("--version", version::OWN),
        ] {
            match call(line) {
                Ok(Call::Print(text)) => assert!(text.contains(part), "{line}: {text}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }
}
