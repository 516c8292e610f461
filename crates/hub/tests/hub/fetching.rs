//! What is brought, where it lies, and what is not asked for again.

use std::fs;

use rectiflow_hub::HubError;

use crate::server::{COMMIT, Server, git_sha1, sha256};
use crate::{Desk, large};

#[test]
fn files_lie_as_pythons_tools_have_them_and_are_not_asked_for_again() {
    let large = large();
    let server = Server::start(&[
        ("a/w.safetensors", &large),
        ("b/w.safetensors", &large),
        ("config.json", b"{}"),
        ("x.bin", b"no"),
    ]);
    let desk = Desk::new(&server);
    let names = ["a/w.safetensors", "b/w.safetensors", "config.json"];
    let (folder, told) = desk.fetch_of("tiny/sd3", &names);
    let folder = folder.unwrap();
    assert_eq!(folder, desk.in_cache(&format!("snapshots/{COMMIT}")));
    assert_eq!(fs::read(folder.join("a/w.safetensors")).unwrap(), large);
    let (blob, text) = (sha256(&large), git_sha1(b"{}"));
    assert_eq!(fs::read_to_string(desk.in_cache("refs/main")).unwrap(), COMMIT);
    let prefix = "hub/models--tiny--sd3";
    let mut expected =
        vec![format!("{prefix}/blobs/{blob}"), format!("{prefix}/blobs/{text}"), format!("{prefix}/refs/main")];
    expected.extend(names.map(|name| format!("{prefix}/snapshots/{COMMIT}/{name}")));
    expected.sort();
    assert_eq!(desk.files(), expected);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join("a/w.safetensors")).unwrap().to_str(),
        Some(&*format!("../../../blobs/{blob}"))
    );
    // Equal content comes once.
    assert!(
        told[0].starts_with(&format!("Plan {{ files: 2, bytes: {}, begun: 0, free: ", large.len() + 2)),
        "{}",
        told[0]
    );
    assert_eq!((server.asked("cdn/a/w.safetensors").len(), server.asked("b/w.safetensors").len()), (1, 0));

    let (again, told) = desk.fetch_of("tiny/sd3", &names);
    assert!(again.is_ok() && told.is_empty(), "{told:?}");
    assert_eq!((server.asked("w.safetensors").len(), server.asked("main").len()), (2, 2));
}

#[test]
fn without_the_hub_the_cache_does() {
    let mut server = Server::start(&[("config.json", b"{}"), ("other.json", b"{}")]);
    let mut desk = Desk::new(&server);
    desk.fetch(&["config.json"]).unwrap();
    server.stop();
    let (folder, told) = desk.fetch_of("tiny/sd3", &["config.json"]);
    assert!(folder.unwrap().join("config.json").is_file());
    assert!(told.len() == 1 && told[0].contains("FromCache") && told[0].contains("cannot be reached"), "{told:?}");
    let error = desk.fetch(&["other.json"]).unwrap_err();
    assert!(matches!(&error, HubError::FileNotCached { name, .. } if name == "other.json"), "{error}");
    assert!(error.to_string().contains("cannot be reached"), "{error}");

    desk.settings.offline = true;
    let (folder, told) = desk.fetch_of("tiny/sd3", &["config.json"]);
    assert!(folder.is_ok() && told.is_empty(), "{told:?}");
    assert!(desk.fetch_of(&format!("tiny/sd3@{COMMIT}"), &["config.json"]).0.is_ok());
    for id in ["tiny/other", "tiny/sd3@v2"] {
        let error = desk.fetch_of(id, &[]).0.unwrap_err();
        assert!(
            matches!(error, HubError::NotCached { .. }) && error.to_string().contains("unset HF_HUB_OFFLINE"),
            "{error}"
        );
    }
}

#[test]
fn what_python_left_is_used() {
    let large = large();
    let server = Server::start(&[("w.safetensors", &large)]);
    let desk = Desk::new(&server);
    let snapshot = desk.in_cache(&format!("snapshots/{COMMIT}"));
    fs::create_dir_all(desk.in_cache("blobs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    // Content without its name, as of another commit.
    fs::write(desk.in_cache(&format!("blobs/{}", sha256(&large))), &large).unwrap();
    assert_eq!(fs::read(desk.fetch(&["w.safetensors"]).unwrap().join("w.safetensors")).unwrap(), large);
    assert!(server.asked("w.safetensors").is_empty());
}

#[test]
fn two_at_once_bring_a_file_once() {
    let large = large();
    let server = Server::start(&[("w.safetensors", &large)]);
    let desk = Desk::new(&server);
    std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| desk.fetch(&["w.safetensors"]).unwrap()));
        for folder in both.map(|one| one.join().unwrap()) {
            assert_eq!(fs::read(folder.join("w.safetensors")).unwrap(), large);
        }
    });
    assert_eq!(server.asked("cdn/w.safetensors").len(), 1);
}

#[test]
fn another_process_that_downloads_is_waited_for() {
    let large = large();
    let server = Server::start(&[("w.safetensors", &large)]);
    let desk = Desk::new(&server);
    let locks = desk.settings.cache.join(".locks/models--tiny--sd3");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", sha256(&large)))).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| desk.fetch_of("tiny/sd3", &["w.safetensors"]));
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert!(!waiting.is_finished() && server.asked("w.safetensors").is_empty());
        lock.unlock().unwrap();
        let (folder, told) = waiting.join().unwrap();
        assert!(folder.is_ok() && told.iter().any(|event| event.contains("Waiting")), "{told:?}");
    });
}

#[test]
fn a_token_goes_to_the_hub_and_to_nobody_else() {
    let server = Server::start(&[("w.safetensors", b"w"), ("config.json", b"{}")]);
    let mut desk = Desk::new(&server);
    desk.settings.token = Some("hf_secret".to_owned());
    desk.fetch(&["w.safetensors", "config.json"]).unwrap();
    for path in ["main", "0123456789abcdef01234567/w.safetensors", "config.json"] {
        assert_eq!(server.asked(path), ["Bearer hf_secret"], "{path}");
    }
    assert_eq!(server.asked("cdn/w.safetensors"), [""]);
}
