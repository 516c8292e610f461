//! What breaks on the way is gone on with or tried again; what is wrong is not kept.

use std::fs;
use std::time::Duration;

use rectiflow_hub::{Fault, HubError};

use crate::server::{Does, Server, sha256};
use crate::{Desk, large};

const FILE: &str = "w.safetensors";
const CONTENT: &str = "cdn/w.safetensors";

/// Longer than an answer takes on a busy machine.
const STALL: Duration = Duration::from_millis(700);

/// The file is brought whole, with these ranges asked for.
#[track_caller]
fn check(faults: &[(Does, usize)], ranges: &[&str]) {
    let large = large();
    let server = Server::start(&[(FILE, &large)]);
    for (does, times) in faults {
        server.fault(CONTENT, *does, *times);
    }
    let mut desk = Desk::new(&server);
    desk.settings.stall = STALL;
    let folder = desk.fetch(&[FILE]).unwrap();
    assert_eq!(fs::read(folder.join(FILE)).unwrap(), large);
    assert_eq!(server.asked(CONTENT), ranges);
}

#[test]
fn a_transfer_that_breaks_goes_on_where_it_stands() {
    check(&[(Does::Cut(400_000), 2)], &["", "bytes=400000-", "bytes=800000-"]);
    check(&[(Does::Stall(300_000), 1)], &["", "bytes=300000-"]);
    check(&[(Does::Refuse(500, ""), 3)], &["", "", "", ""]);
    check(&[(Does::Refuse(429, ""), 1)], &["", ""]);
    check(&[(Does::Cut(400_000), 1), (Does::IgnoreRange, 1)], &["", "bytes=400000-"]);
    // More than six in all, but each brings something.
    let ranges: Vec<String> = (1..10).map(|i| format!("bytes={}-", i * 100_000)).collect();
    let ranges: Vec<&str> = std::iter::once("").chain(ranges.iter().map(String::as_str)).collect();
    check(&[(Does::Cut(100_000), 9)], &ranges);
}

/// The file is not brought.
#[track_caller]
fn fails(does: Does, times: usize) -> (Desk, Server, HubError) {
    let server = Server::start(&[(FILE, &large())]);
    server.fault(CONTENT, does, times);
    let mut desk = Desk::new(&server);
    desk.settings.stall = STALL;
    let error = desk.fetch(&[FILE]).unwrap_err();
    assert!(error.to_string().contains("\nhint: "), "{error}");
    (desk, server, error)
}

#[test]
fn after_five_more_tries_it_is_an_error() {
    let (_, server, error) = fails(Does::Stall(0), 6);
    assert!(matches!(error, HubError::Transfer { fault: Fault::Stalled(_), tries: 6, .. }), "{error}");
    assert_eq!(server.asked(CONTENT).len(), 6);
    let (_, _, error) = fails(Does::Refuse(503, ""), 6);
    assert!(error.to_string().contains("status 503 (tried 6 times)"), "{error}");
    let (desk, server, error) = fails(Does::Cut(0), 6);
    assert!(matches!(error, HubError::Transfer { tries: 6, .. }), "{error}");
    // Whatever the error was, the next run goes on.
    assert!(desk.fetch(&[FILE]).is_ok());
    assert_eq!(server.asked(CONTENT).len(), 7);
    // The same bytes again and again are no progress.
    let (_, server, error) = fails(Does::IgnoreRangeAndCut(400_000), 50);
    assert!(matches!(error, HubError::Transfer { fault: Fault::Cut { .. }, tries: 6, .. }), "{error}");
    assert!(server.asked(CONTENT).len() < 10);
}

#[test]
fn a_list_is_asked_for_again_too() {
    let server = Server::start(&[(FILE, b"w")]);
    server.fault("main", Does::Refuse(502, ""), 3);
    let (folder, told) = Desk::new(&server).fetch_of("tiny/sd3", &[FILE]);
    assert!(folder.is_ok());
    assert_eq!(told.iter().filter(|event| event.contains("Again") && event.contains("502")).count(), 3, "{told:?}");
}

#[test]
fn damaged_content_is_not_kept() {
    let (desk, _, error) = fails(Does::Damage, 1);
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    assert_eq!(desk.files(), Vec::<String>::new());
}

#[test]
fn content_of_another_length_is_refused() {
    let (_, _, error) = fails(Does::Lengthen, 1);
    assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
}

#[test]
fn what_a_stopped_run_left_is_gone_on_with() {
    let large = large();
    let server = Server::start(&[(FILE, &large)]);
    let desk = Desk::new(&server);
    let incomplete = desk.in_cache(&format!("blobs/{}.incomplete", sha256(&large)));
    fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
    fs::write(&incomplete, &large[..600_000]).unwrap();
    let (folder, told) = desk.fetch_of("tiny/sd3", &[FILE]);
    assert_eq!(fs::read(folder.unwrap().join(FILE)).unwrap(), large);
    assert!(told[0].contains("bytes: 400000, begun: 600000"), "{}", told[0]);
    assert_eq!(server.asked(CONTENT), ["bytes=600000-"]);
    assert!(!incomplete.exists());
}

#[test]
fn a_damaged_beginning_is_thrown_away_and_nothing_is_asked_for_in_vain() {
    let large = large();
    for (left, ranges) in [
        (vec![7; 600_000], vec!["bytes=600000-", ""]),
        (vec![7; 1_000_000], vec![""]),
        (vec![7; 1_000_001], vec![""]),
        (large.clone(), vec![]),
    ] {
        let server = Server::start(&[(FILE, &large)]);
        let desk = Desk::new(&server);
        fs::create_dir_all(desk.in_cache("blobs")).unwrap();
        fs::write(desk.in_cache(&format!("blobs/{}.incomplete", sha256(&large))), left).unwrap();
        assert_eq!(fs::read(desk.fetch(&[FILE]).unwrap().join(FILE)).unwrap(), large);
        assert_eq!(server.asked(CONTENT), ranges);
    }
}
