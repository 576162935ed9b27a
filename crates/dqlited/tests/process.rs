//! The program as a process: what it says and with what exit code it ends.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

fn dqlited(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dqlited"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DQLITED_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().unwrap()
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_wrong_call_ends_with_2_and_words_on_stderr() {
    assert_eq!(
        texts(&dqlited(&["start", "--data-dirr=x"])),
        (
            Some(2),
            String::new(),
            "error: --data-dirr: there is no such flag\nhint: is --data-dir meant?\n".into()
        )
    );
    assert_eq!(
        texts(&dqlited(&["start", "--listen-client-urls=0.0.0.0"])),
        (
            Some(2),
            String::new(),
            "error: --listen-client-urls: no port in \"0.0.0.0\", expected HOST:PORT\n".into()
        )
    );
}

#[test]
fn version_and_help_go_to_stdout_and_end_with_0() {
    let (code, out, err) = texts(&dqlited(&["version"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(
        out,
        format!("dqlited {}\netcd API {}\n", env!("CARGO_PKG_VERSION"), dqlited_etcd::version::ETCD)
    );
    let (code, out, err) = texts(&dqlited(&["start", "--help"]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("--listen-client-urls"));
}

#[test]
fn a_port_in_use_is_named_and_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let output = dqlited(&[
        "start",
        &format!("--data-dir={}", dir.path().join("data").display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
    ]);
    assert_eq!(
        texts(&output),
        (
            Some(1),
            String::new(),
            format!(
                "error: --listen-client-urls: port {port} of \"{url}\" is in use by another process\n\
                 hint: `ss -ltnp sport = :{port}` names it\n"
            )
        )
    );
}

#[test]
fn a_folder_that_cannot_be_used_is_named_and_ends_with_1() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    assert_eq!(
        texts(&dqlited(&["start", &format!("--data-dir={path}")])),
        (
            Some(1),
            String::new(),
            format!("error: --data-dir: cannot read \"{path}\": Not a directory (os error 20)\n")
        )
    );
}

#[test]
fn a_socket_that_is_in_use_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _taken = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let url = format!("unix://{}", socket.display());
    let output = dqlited(&[
        "start",
        &format!("--data-dir={}", dir.path().join("data").display()),
        &format!("--listen-client-urls={url}"),
        &format!("--advertise-client-urls={url}"),
    ]);
    let text = format!("error: --listen-client-urls: \"{url}\": the socket is in use by another process\n");
    assert_eq!(texts(&output), (Some(1), String::new(), text));
}

/// Answers one connection with `answer`, whatever it asks, and gives what was asked.
fn answer_once(answer: String) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut byte = [0];
        while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            asked.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (port, thread)
}

#[test]
fn status_asks_the_member_and_prints_what_it_says() {
    let body = r#"{"name":"one","revision":5}"#;
    let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (port, asked) = answer_once(answer);
    let endpoint = format!("http://127.0.0.1:{port}");
    let (code, out, err) = texts(&dqlited(&["status", "-o", "json", "--endpoints", &endpoint]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let found: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(found, serde_json::json!([{ "endpoint": endpoint, "name": "one", "revision": 5 }]));
    assert!(asked.join().unwrap().starts_with("GET /dqlited/status HTTP/1.0\r\n"));
}

#[test]
fn status_of_a_member_that_is_not_there_ends_with_1() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://127.0.0.1:{}", free.local_addr().unwrap().port());
    drop(free);
    let text = format!("error: {endpoint}: Connection refused (os error 111)\n");
    assert_eq!(texts(&dqlited(&["status", "--endpoints", &endpoint])), (Some(1), String::new(), text));

    let (port, asked) = answer_once("HTTP/1.0 404 Not Found\r\n\r\n".into());
    let endpoint = format!("http://127.0.0.1:{port}");
    let text = format!("error: {endpoint}: answered with HTTP status 404: is this a dqlited?\n");
    assert_eq!(texts(&dqlited(&["status", "--endpoints", &endpoint])), (Some(1), String::new(), text));
    asked.join().unwrap();
}
