//! The data directory before anything is opened in it.

use std::fs;
use std::io;
use std::path::Path;

use dqlited_raft::environment::{Disks, SystemDisks};

use crate::config::Config;
use crate::failure::Failure;

/// Makes it when it is missing, for its owner alone, and refuses what can be seen to be wrong from outside.
pub fn prepare(config: &Config) -> Result<(), Failure> {
    let path = &config.data_dir;
    let fault = |what: &str, error: io::Error| {
        let failure = Failure::failed(format!("--data-dir: cannot {what} \"{}\": {error}", path.display()));
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                failure.hint("a member must write there: give a directory that it may write to")
            }
            _ => failure,
        }
    };
    let is_empty = match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // As the member would make it: durably, with what is above it.
            SystemDisks.folder(path).map_err(|error| fault("make", error))?;
            true
        }
        Err(error) => return Err(fault("read", error)),
    };
    if holds_etcd(path) {
        return Err(Failure::failed(format!("--data-dir: \"{}\" holds the data of an etcd", path.display()))
            .hint("give another folder; what etcd has stored cannot be taken over yet"));
    }
    if is_empty && config.is_existing_cluster {
        return Err(Failure::wrong_call(format!(
            "--initial-cluster-state: \"existing\", but \"{}\" holds no member, and members cannot join yet",
            path.display()
        ))
        .hint("clusters come with the next release: docs/roadmap.md"));
    }
    Ok(())
}

fn holds_etcd(path: &Path) -> bool {
    path.join("member/snap/db").exists()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;
    use crate::settings::Settings;

    fn config(path: PathBuf, state: &str) -> Config {
        let flags = vec![
            ("data-dir", path.to_str().unwrap().to_string()),
            ("initial-cluster-state", state.to_string()),
        ];
        Config::from_settings(Settings::read(flags, []).unwrap()).unwrap()
    }

    #[test]
    fn a_missing_folder_is_made_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        prepare(&config(path.clone(), "new")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        prepare(&config(path, "new")).unwrap();
    }

    #[test]
    fn what_is_no_folder_for_a_member_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let failure = prepare(&config(file.clone(), "new")).unwrap_err();
        assert_eq!(
            failure.text,
            format!("--data-dir: cannot read \"{}\": Not a directory (os error 20)", file.display())
        );
        let etcd = dir.path().join("etcd");
        fs::create_dir_all(etcd.join("member/snap")).unwrap();
        fs::write(etcd.join("member/snap/db"), "x").unwrap();
        let failure = prepare(&config(etcd.clone(), "new")).unwrap_err();
        assert_eq!(failure.text, format!("--data-dir: \"{}\" holds the data of an etcd", etcd.display()));
    }

    #[test]
    fn an_existing_cluster_needs_a_member_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        let failure = prepare(&config(path.clone(), "existing")).unwrap_err();
        assert_eq!(
            failure.text,
            format!(
                "--initial-cluster-state: \"existing\", but \"{}\" holds no member, and members cannot join yet",
                path.display()
            )
        );
        fs::write(path.join("something"), "x").unwrap();
        prepare(&config(path, "existing")).unwrap();
    }
}
