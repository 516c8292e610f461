//! A hub on this machine's own address, with the faults that hubs and networks have.
#![allow(dead_code, unreachable_pub, reason = "two test binaries include this file, and each uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ring::digest;
use serde_json::json;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Refuses, with `X-Error-Code`.
    Refuse(u16, &'static str),
    /// Announces all and ends after these bytes.
    Cut(usize),
    /// Sends these bytes, and then nothing.
    Stall(usize),
    /// Sends a wrong last byte.
    Damage,
    /// Sends all where a part was asked for.
    IgnoreRange,
    /// The same, and ends after these bytes of it.
    IgnoreRangeAndCut(usize),
    /// Announces a byte more than the list does.
    Lengthen,
}

/// A fault of the next requests whose path ends in something.
struct Fault {
    on: &'static str,
    does: Does,
    times: usize,
}

/// Of the content of large files, beside the repository.
const CONTENT: &str = "/cdn";

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// Sizes of the list that are not the files'.
    sizes: BTreeMap<String, u64>,
    faults: Mutex<Vec<Fault>>,
    /// `PATH RANGE AUTHORIZATION` of each request.
    log: Mutex<Vec<String>>,
    is_off: AtomicBool,
}

/// Serves one repository, `tiny/sd3`, at one commit, which is `main`.
pub struct Server {
    port: u16,
    state: Arc<State>,
    listener: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    pub fn start(files: &[(&str, &[u8])]) -> Server {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        Server::of(State { files, ..State::default() })
    }

    /// All files of a folder.
    pub fn of_folder(folder: &Path) -> Server {
        let mut files = BTreeMap::new();
        add(folder, "", &mut files);
        Server::of(State { files, ..State::default() })
    }

    /// One file, of which the list says another size.
    pub fn lying(name: &str, bytes: u64) -> Server {
        let (files, sizes) = ([(name.to_owned(), b"x".to_vec())].into(), [(name.to_owned(), bytes)].into());
        Server::of(State { files, sizes, ..State::default() })
    }

    fn of(state: State) -> Server {
        let (listener, state) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(state));
        let port = listener.local_addr().unwrap().port();
        let serving = Arc::clone(&state);
        let listener = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if serving.is_off.load(Ordering::SeqCst) {
                    return;
                }
                let state = Arc::clone(&serving);
                // Who hangs up early is no matter here.
                std::thread::spawn(move || connection.and_then(|connection| state.answer(connection, port)));
            }
        });
        Server { port, state, listener: Some(listener) }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next `times` requests for a path with this end go wrong.
    pub fn fault(&self, on: &'static str, does: Does, times: usize) {
        self.state.faults.lock().unwrap().push(Fault { on, does, times });
    }

    /// Requests so far whose path ends so: their ranges and authorizations.
    pub fn asked(&self, end: &str) -> Vec<String> {
        let log = self.state.log.lock().unwrap();
        let of = |line: &String| {
            line.split_once(' ').filter(|(path, _)| path.ends_with(end)).map(|(_, rest)| rest.trim().to_owned())
        };
        log.iter().filter_map(of).collect()
    }

    /// From now on connections are refused.
    pub fn stop(&mut self) {
        self.state.is_off.store(true, Ordering::SeqCst);
        if let Some(listener) = self.listener.take() {
            let _ = TcpStream::connect(("127.0.0.1", self.port));
            listener.join().unwrap();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn add(folder: &Path, above: &str, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            add(&entry.path(), &format!("{name}/"), files);
        } else {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
}

fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(content: &[u8]) -> String {
    hex(&digest::digest(&digest::SHA256, content))
}

pub fn git_sha1(content: &[u8]) -> String {
    let blob = [format!("blob {}\0", content.len()).as_bytes(), content].concat();
    hex(&digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &blob))
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf")
}

impl State {
    fn answer(&self, mut connection: TcpStream, port: u16) -> std::io::Result<()> {
        let mut lines = BufReader::new(connection.try_clone()?).lines();
        let first = lines.next().unwrap_or(Ok(String::new()))?;
        let (mut range, mut authorization) = (String::new(), String::new());
        for line in lines.by_ref() {
            let line = line?;
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some((name, value)) if name.eq_ignore_ascii_case("range") => range = value.to_owned(),
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = value.to_owned(),
                _ => {}
            }
        }
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let path = path.split('?').next().unwrap_or_default();
        self.log.lock().unwrap().push(format!("{path} {range} {authorization}"));
        let does = self.next_fault(path);
        if let Some(Does::Refuse(status, code)) = does {
            return write!(
                connection,
                "HTTP/1.1 {status} No\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if path.starts_with("/api/models/") {
            return match path {
                "/api/models/tiny/sd3/revision/main" => send(&mut connection, &self.list(), "", None),
                _ if path.starts_with("/api/models/tiny/sd3/revision/") => {
                    refuse(&mut connection, 404, "RevisionNotFound")
                }
                _ => refuse(&mut connection, 401, "RepoNotFound"),
            };
        }
        let resolved = path.strip_prefix(&format!("/tiny/sd3/resolve/{COMMIT}/"));
        match (resolved, path.strip_prefix(&format!("{CONTENT}/"))) {
            // Another host, as far as a name can tell.
            (Some(name), _) if is_large(name) => write!(
                connection,
                "HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}{CONTENT}/{name}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ),
            (Some(name), _) | (None, Some(name)) => match self.files.get(name) {
                Some(content) => send(&mut connection, content, &range, does),
                None => refuse(&mut connection, 404, "EntryNotFound"),
            },
            _ => refuse(&mut connection, 404, ""),
        }
    }

    fn next_fault(&self, path: &str) -> Option<Does> {
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|fault| fault.times > 0 && path.ends_with(fault.on))?;
        fault.times -= 1;
        Some(fault.does)
    }

    fn list(&self) -> Vec<u8> {
        let file = |(name, content): (&String, &Vec<u8>)| {
            let size = self.sizes.get(name).copied().unwrap_or(content.len() as u64);
            let mut file = json!({"rfilename": name, "size": size, "blobId": git_sha1(content)});
            if is_large(name) {
                file["lfs"] = json!({"sha256": sha256(content), "size": size, "pointerSize": 134});
            }
            file
        };
        let files: Vec<_> = self.files.iter().map(file).collect();
        json!({"id": "tiny/sd3", "sha": COMMIT, "gated": false, "siblings": files}).to_string().into_bytes()
    }
}

fn refuse(connection: &mut TcpStream, status: u16, code: &str) -> std::io::Result<()> {
    write!(connection, "HTTP/1.1 {status} No\r\nX-Error-Code: {code}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

fn send(connection: &mut TcpStream, content: &[u8], range: &str, does: Option<Does>) -> std::io::Result<()> {
    let mut content = content.to_vec();
    if let (Some(Does::Damage), Some(last)) = (does, content.last_mut()) {
        *last ^= 1;
    }
    let all = content.len();
    let from = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| !matches!(does, Some(Does::IgnoreRange | Does::IgnoreRangeAndCut(_))));
    match from {
        Some(from) if from >= all => return refuse(connection, 416, ""),
        Some(from) => {
            content.drain(..from);
            write!(connection, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{all}\r\n", all - 1)?;
        }
        None => write!(connection, "HTTP/1.1 200 OK\r\n")?,
    }
    let announced = content.len() + usize::from(matches!(does, Some(Does::Lengthen)));
    write!(connection, "Content-Length: {announced}\r\nConnection: close\r\n\r\n")?;
    match does {
        Some(Does::Cut(bytes) | Does::IgnoreRangeAndCut(bytes)) => {
            connection.write_all(&content[..bytes.min(content.len())])
        }
        Some(Does::Stall(bytes)) => {
            connection.write_all(&content[..bytes.min(content.len())])?;
            connection.flush()?;
            std::thread::sleep(Duration::from_secs(3));
            Ok(())
        }
        _ => connection.write_all(&content),
    }
}
