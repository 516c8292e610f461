//! What a hub refuses, and what is refused of a hub.

use rectiflow_hub::{Fault, HubError};

use crate::Desk;
use crate::server::{Does, Server};

/// The error says all of this; nothing is left in the cache.
#[track_caller]
fn check(desk: &Desk, id: &str, name: &str, parts: &[&str]) -> HubError {
    let error = desk.fetch_of(id, &[name]).0.unwrap_err();
    let said = error.to_string();
    for part in parts.iter().chain(&["\nhint: "]) {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert_eq!(desk.files(), Vec::<String>::new());
    error
}

#[test]
fn a_hub_refuses_what_is_not_there() {
    let server = Server::start(&[("config.json", b"{}")]);
    let desk = Desk::new(&server);
    check(&desk, "tiny/none", "config.json", &["`tiny/none`", "everybody may read", "HF_TOKEN"]);
    check(&desk, "tiny/sd3@v9", "config.json", &["no branch, tag or commit `v9`"]);
    check(&desk, "tiny/sd3", "none.json", &["tiny/sd3 has no `none.json`", "/tiny/sd3/tree/main"]);
}

#[test]
fn a_gated_model_says_what_to_do() {
    let server = Server::start(&[("config.json", b"{}")]);
    let mut desk = Desk::new(&server);
    server.fault("config.json", Does::Refuse(401, "GatedRepo"), 1);
    let page = format!("{}/tiny/sd3", server.endpoint());
    check(&desk, "tiny/sd3", "config.json", &["gated", "no token was given", &page, "hf auth login", "HF_TOKEN"]);
    desk.settings.token = Some("hf_x".to_owned());
    server.fault("config.json", Does::Refuse(403, "GatedRepo"), 1);
    check(&desk, "tiny/sd3", "config.json", &["gated", "the account of your token has not", &page]);
    server.fault("main", Does::Refuse(401, ""), 1);
    check(&desk, "tiny/sd3", "config.json", &["does not know your token", "settings/tokens"]);
    server.fault("config.json", Does::Refuse(416, ""), 1);
    check(&desk, "tiny/sd3", "config.json", &["refuses `config.json` of tiny/sd3: status 416"]);
    // None of them is tried again.
    assert_eq!(server.asked("config.json").len(), 3);
}

#[test]
fn names_that_lead_out_of_the_folder_are_refused() {
    for name in ["../evil.json", "a/../../evil.json", "/evil.json", "a\\evil.json"] {
        let server = Server::start(&[("config.json", b"{}"), (name, b"evil")]);
        check(&Desk::new(&server), "tiny/sd3", "config.json", &["outside of the repository's folder"]);
    }
}

#[test]
fn a_disk_without_room_is_known_before() {
    let server = Server::lying("w.safetensors", 1 << 60);
    let error = check(&Desk::new(&server), "tiny/sd3", "w.safetensors", &["1152921504.6 GB", "free", "HF_HUB_CACHE"]);
    assert!(matches!(error, HubError::NoRoom { .. }) && server.asked("w.safetensors").is_empty());
}

#[test]
fn a_hub_that_is_not_there_is_said_at_once() {
    let mut server = Server::start(&[]);
    server.stop();
    let error = check(
        &Desk::new(&server),
        "tiny/sd3",
        "config.json",
        &["cannot be reached", &server.endpoint(), "HF_ENDPOINT"],
    );
    assert!(matches!(error, HubError::Transfer { fault: Fault::Unreachable(_), tries: 1, .. }), "{error}");
}
