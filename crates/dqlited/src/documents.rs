//! `docs/cli.md` and `docs/config.md`, made from the command line and the table of settings.

use std::fmt::Write;

use crate::cli;
use crate::flags::{self, Effect, Flag};

/// Help texts are laid out for this many columns.
const WIDTH: usize = 100;

/// The help of every command.
pub fn cli() -> String {
    let mut text = String::from(
        "# Command line\n\nMade from the program (a test compares; `DQLITED_WRITE_DOCS=1 cargo test -p dqlited` writes \
         it anew).\n\nData goes to stdout, talk and logs to stderr. Exit code 0: done; 1: failed; 2: wrong call or \
         configuration. Faults are told as `error: ...`, with `hint: ...` where something may help.\n",
    );
    let mut root = cli::command().term_width(WIDTH);
    root.build();
    let mut section = |command: &mut clap::Command| {
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(
            text,
            "\n## `{}`\n\n```text\n{}\n```\n",
            command.get_bin_name().unwrap_or("dqlited"),
            lines.join("\n").trim()
        );
    };
    section(&mut root.clone());
    for command in root.get_subcommands_mut() {
        section(command);
    }
    text
}

/// Every setting.
pub fn config() -> String {
    let mut text = String::from(
        "# Settings of `dqlited start`\n\nMade from the program (a test compares; `DQLITED_WRITE_DOCS=1 cargo test -p \
         dqlited` writes it anew).\n\n\
         Each setting is a flag (`--data-dir`), a variable (`DQLITED_DATA_DIR`) and a key (`data-dir`) of the file that \
         `--config-file` names. The file is read first, then the variables, then the flags; the later wins. (etcd passes \
         over flags and variables once a file is given.) An empty value means the default. Names and meanings are \
         etcd's.\n\n\
         The file is TOML (`.toml`) or YAML (`.yaml`, `.yml`, `.json`). A key that is no setting is an error. Lists of \
         URLs are text with commas or arrays. etcd's tables `client-transport-security` and \
         `peer-transport-security` are read as etcd reads them. A duration is text in Go's syntax (`5s`, `1h30m`); a \
         bare number in a file counts nanoseconds, as in etcd.\n\n\
         ```toml\nname = \"one\"\ndata-dir = \"/var/lib/dqlited\"\nlisten-client-urls = [\"http://127.0.0.1:2379\"]\n\
         advertise-client-urls = \"http://127.0.0.1:2379\"\nauto-compaction-retention = \"30m\"\n```\n",
    );
    for group in flags::GROUPS {
        let used: Vec<&Flag> = group.flags.iter().filter(|flag| flag.effect == Effect::Used).collect();
        if used.is_empty() {
            continue;
        }
        let _ = write!(
            text,
            "\n## {}\n\n| setting | value | default | meaning |\n|---|---|---|---|\n",
            group.title
        );
        for flag in used {
            let default = if flag.default.is_empty() { String::new() } else { format!("`{}`", flag.default) };
            let mut meaning = flag.meaning.to_string();
            if let flags::Kind::Choice(words) = flag.kind {
                let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                let _ = write!(meaning, " One of {}.", words.join(", "));
            }
            let _ = writeln!(text, "| `{}` | {} | {default} | {meaning} |", flag.name, flag.value_name());
        }
    }
    text.push_str(
        "\n## Taken without effect\n\nSo that command lines and manifests written for etcd start. Each is checked as etcd \
         checks it; when it is given, one line in the log says why nothing comes of it.\n\n| setting | why |\n|---|---|\n",
    );
    for flag in flags::all() {
        match flag.effect {
            Effect::None(why) => {
                let _ = writeln!(text, "| `{}` | {why} |", flag.name);
            }
            Effect::OldNameOf(newer) => {
                let _ = writeln!(text, "| `{}` | an older name of `{newer}`, does the same |", flag.name);
            }
            Effect::Used | Effect::DefaultOnly(_) => {}
        }
    }
    text.push_str(
        "\n## Refused unless it is the default\n\nTo pass these over in silence would break what they promise.\n\n\
         | setting | taken | why no other |\n|---|---|---|\n",
    );
    for flag in flags::all() {
        if let Effect::DefaultOnly(why) = flag.effect {
            let default =
                if flag.default.is_empty() { "nothing".to_string() } else { format!("`{}`", flag.default) };
            let _ = writeln!(text, "| `{}` | {default} | {why} |", flag.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_documents_are_those_that_the_program_makes() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        for (name, text) in [("cli.md", super::cli()), ("config.md", super::config())] {
            let path = docs.join(name);
            if std::env::var_os("DQLITED_WRITE_DOCS").is_some() {
                std::fs::create_dir_all(&docs).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let found = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(
                found, text,
                "docs/{name}: run `DQLITED_WRITE_DOCS=1 cargo test -p dqlited` to write it anew"
            );
        }
    }
}
