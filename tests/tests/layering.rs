//! The walls between the crates, read from their manifests: which crate may name which, and who alone names what.

use std::collections::BTreeSet;
use std::path::Path;

/// Our crates, each with those of ours that it may name (docs/ARCHITECTURE.md).
const MAY_NAME: [(&str, &[&str]); 6] = [
    ("proto", &[]),
    ("store", &[]),
    ("log", &[]),
    ("raft", &["log", "store"]),
    ("etcd", &["proto", "raft", "store"]),
    ("dqlited", &["etcd", "raft"]),
];

/// Stands in for a library of the registry and names nothing.
const STAND_IN: &str = "base2histogram";

/// Libraries that only these crates may name.
const ONLY_IN: [(&str, &[&str]); 5] = [
    ("openraft", &["raft"]),
    ("rusqlite", &["store"]),
    ("clap", &["dqlited"]),
    ("tonic", &["proto", "etcd"]),
    ("tokio", &["raft", "etcd", "dqlited"]),
];

/// What a crate depends on when it is built, tests left out.
fn dependencies(name: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(name).join("Cargo.toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next())
        .filter(|dependency| !dependency.is_empty() && !dependency.starts_with('#'))
        .map(str::to_string)
        .collect()
}

#[test]
fn no_crate_names_one_above_it() {
    for (name, may_name) in MAY_NAME {
        let found = dependencies(name);
        assert!(!found.is_empty(), "{name}: no dependencies found, is the manifest read rightly?");
        for dependency in found.iter().filter_map(|dependency| dependency.strip_prefix("dqlited-")) {
            assert!(may_name.contains(&dependency), "{name} names {dependency}");
        }
    }
}

#[test]
fn each_big_library_is_named_in_its_room_alone() {
    for (name, _) in MAY_NAME {
        let found = dependencies(name);
        for (library, rooms) in ONLY_IN {
            assert!(!found.contains(library) || rooms.contains(&name), "{name} names {library}");
        }
    }
    for (library, rooms) in ONLY_IN {
        assert!(rooms.iter().any(|name| dependencies(name).contains(library)), "nobody names {library}");
    }
}

#[test]
fn all_crates_are_looked_at() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let found: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known = MAY_NAME.iter().map(|(name, _)| *name).chain([STAND_IN]);
    assert_eq!(found, known.map(str::to_string).collect());
    assert!(dependencies(STAND_IN).is_empty(), "{STAND_IN} names something");
}
