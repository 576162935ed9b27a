//! The documents name what exists: tests that show a rule, and files.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust files beneath a folder.
fn rust_files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_test_that_shows_a_rule_exists() {
    let mut sources = Vec::new();
    for folder in ["crates", "tests"] {
        rust_files(&root().join(folder), &mut sources);
    }
    let is_test_name = |word: &&str| {
        word.matches('_').count() >= 3 && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    for document in ["docs/consistency.md", "docs/regressions.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        let names: Vec<&str> = quoted(&text).filter(is_test_name).collect();
        assert!(names.len() > 20, "{document}: {names:?}");
        for name in names {
            let start = format!("fn {name}(");
            assert!(sources.iter().any(|source| source.contains(&start)), "{document}: no test {name}");
        }
    }
}

#[test]
fn each_link_to_a_document_leads_somewhere() {
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            documents.push(entry.unwrap().path());
        }
    }
    for document in
        documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    {
        let text = std::fs::read_to_string(document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = document.parent().unwrap().join(target);
            assert!(path.exists(), "{}: nothing at {target}", document.display());
        }
    }
}
