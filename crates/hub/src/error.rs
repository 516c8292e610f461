use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What can be wrong with a download. The message says what is wrong and where and, in a second line, what to do next.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it; the fields are what the message names")]
pub enum HubError {
    #[error("`{name}` is `{value}`, and it must be {expected}\nhint: set it to that, or unset it")]
    BadSetting { name: &'static str, value: String, expected: &'static str },
    #[error("{repository} is gated: its owner gives it to those who accept the licence{}\nhint: accept it on {page}, then `hf auth login`, or set HF_TOKEN to a token of that account (it must be allowed to read gated repositories)", if *.has_token { "; the account of your token has not, or waits for an answer" } else { ", and no token was given" })]
    Gated { repository: String, page: String, has_token: bool },
    #[error(
        "the hub {endpoint} does not know your token\nhint: make a new one on {endpoint}/settings/tokens, then `hf auth login` or set HF_TOKEN; public models need none"
    )]
    BadToken { endpoint: String },
    #[error("there is no file or folder `{repository}`, and no repository of that name that {} on {endpoint}\nhint: check the name{}", if *.has_token { "your token may read" } else { "everybody may read" }, if *.has_token { "" } else { "; for a private one set HF_TOKEN, or `hf auth login`" })]
    NoRepository { repository: String, endpoint: String, has_token: bool },
    #[error(
        "{repository} has no branch, tag or commit `{revision}`\nhint: {page}/tree/main lists them; without @REVISION it is main"
    )]
    NoRevision { repository: String, revision: String, page: String },
    #[error("{repository} has no `{name}`\nhint: {page}/tree/main lists its files")]
    NoFile { repository: String, name: String, page: String },
    #[error(
        "the hub refuses {what}: status {status}{message}\nhint: is HF_ENDPOINT the address of a hub, and may your token read this?"
    )]
    Refused { what: String, status: u16, message: String },
    #[error("{what} cannot be downloaded: {fault}{}\nhint: {}", after_tries(*.tries), .fault.hint())]
    Transfer { what: String, fault: Fault, tries: u32 },
    #[error(
        "{what} was damaged on its way: its hash is {found} where the hub names {expected}; it was removed\nhint: try again; if it comes again, what lies between here and the hub changes files (a proxy, a mirror)"
    )]
    WrongHash { what: String, expected: String, found: String },
    #[error(
        "the hub's answer for {what} cannot be used: {problem}\nhint: is HF_ENDPOINT the address of a hub that can be trusted?"
    )]
    BadAnswer { what: String, problem: String },
    #[error("{} need {} more on the disk of {}, where {} are free\nhint: make room, or set HF_HUB_CACHE to a folder on another disk", .what, gb(*.needed), shown(.folder), gb(*.free))]
    NoRoom { what: String, needed: u64, free: u64, folder: PathBuf },
    #[error("{} cannot be written or read: {problem}\nhint: {}", shown(.path), disk_hint(.problem))]
    Disk { path: PathBuf, problem: io::Error },
    #[error("there is no file or folder `{repository}`, and nothing of a repository of that name in the cache {}; {why}\nhint: {}", shown(.cache), online_hint(.why))]
    NotCached { repository: String, cache: PathBuf, why: String },
    #[error("`{name}` of {repository} is not in the cache {}; {why}\nhint: {}", shown(.cache), online_hint(.why))]
    FileNotCached { name: String, repository: String, cache: PathBuf, why: String },
}

/// Why a transfer ended early. Another try may help.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum Fault {
    #[error("the hub cannot be reached: {0}")]
    Unreachable(String),
    #[error("the hub answers with status {0}")]
    Status(u16),
    #[error("nothing came for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    #[error("it ended after {at} of {bytes} bytes")]
    Cut { at: u64, bytes: u64 },
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Fault {
    fn hint(&self) -> &'static str {
        match self {
            Fault::Unreachable(_) => {
                "check the network, and HTTPS_PROXY and HF_ENDPOINT where you use them; if a path was meant, nothing is there \
                 of that name"
            }
            Fault::Status(429) => {
                "the hub asks for patience: wait some minutes, or set HF_TOKEN, which may ask more often"
            }
            Fault::Status(_) => "the hub has a trouble of its own: try again later; what was downloaded is kept",
            Fault::Stalled(_) | Fault::Cut { .. } | Fault::Broken(_) => {
                "the same command goes on where it stands; HF_HUB_DOWNLOAD_TIMEOUT=SECONDS waits longer"
            }
        }
    }
}

impl HubError {
    pub(crate) fn bad_setting(name: &'static str, value: &str, expected: &'static str) -> HubError {
        HubError::BadSetting { name, value: value.to_owned(), expected }
    }

    pub(crate) fn disk(path: &Path) -> impl FnOnce(io::Error) -> HubError {
        let path = path.to_owned();
        |problem| HubError::Disk { path, problem }
    }
}

fn shown(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn after_tries(tries: u32) -> String {
    if tries > 1 { format!(" (tried {tries} times)") } else { String::new() }
}

fn gb(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes < 1e8 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.1} GB", bytes / 1e9) }
}

fn disk_hint(problem: &io::Error) -> &'static str {
    match problem.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room, or set HF_HUB_CACHE to a folder on another disk; the same command goes on where it stands"
        }
        _ => "check the permissions of that folder, or set HF_HUB_CACHE to another one",
    }
}

/// Said where only the cache may be used.
pub(crate) const OFFLINE: &str = "HF_HUB_OFFLINE is set";

fn online_hint(why: &str) -> &'static str {
    if why == OFFLINE {
        "unset HF_HUB_OFFLINE to download it"
    } else {
        "check the network, then give the command again"
    }
}
