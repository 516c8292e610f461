//! Requests to the hub: one try each. Nothing is tried again here.

use std::io::{self, Read};
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, Error, Proxy, Timeout};

use crate::answers::{Asked, Refusal};
use crate::error::{Fault, HubError};
use crate::partial::{CHUNK_BYTES, Partial};
use crate::settings::Settings;

/// A list of a thousand files takes 300 kB.
const LIST_BYTES_MAX: u64 = 64 << 20;

/// How long the search for a name and a connection may take, each.
const CONNECT: Duration = Duration::from_secs(15);

/// Name and version, as hubs ask for.
const USER_AGENT: &str = concat!("rectiflow/", env!("CARGO_PKG_VERSION"));

pub(crate) fn agent(settings: &Settings) -> Agent {
    // As the environment says; but a hub on this machine is behind none.
    let proxy = if is_here(&settings.endpoint) { None } else { Proxy::try_from_env() };
    Agent::config_builder()
        .proxy(proxy)
        .http_status_as_error(false)
        // What begins with TLS stays in it, redirects too.
        .https_only(settings.endpoint.starts_with("https://"))
        // Of a repository that was renamed; the address of the content has a permission of its own.
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(USER_AGENT)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(settings.stall))
        .timeout_per_write(Some(settings.stall))
        .build()
        .new_agent()
}

fn is_here(endpoint: &str) -> bool {
    ["http://127.0.0.1", "http://localhost", "http://[::1]"].iter().any(|here| endpoint.starts_with(here))
}

/// Whoever asks, with what is needed to.
pub(crate) struct Request<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) settings: &'a Settings,
    pub(crate) asked: Asked<'a>,
}

impl Request<'_> {
    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, HubError> {
        let mut request = self.agent.get(url);
        if let Some(token) = &self.settings.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.call().map_err(|error| self.failed(error))?;
        let status = response.status().as_u16();
        match status {
            200..300 => Ok(response),
            416 if from > 0 => Ok(response),
            408 | 429 | 500.. => Err(self.fault(Fault::Status(status))),
            _ => {
                let text = |name: &str| header(response.headers(), name).unwrap_or_default().to_owned();
                let refusal = Refusal { status, code: text("x-error-code"), message: text("x-error-message") };
                Err(self.asked.refused(&refusal))
            }
        }
    }

    /// A small answer, whole.
    pub(crate) fn read(&self, url: &str) -> Result<Vec<u8>, HubError> {
        let mut answer = Vec::new();
        let mut response = self.get(url, 0)?;
        let mut body = response.body_mut().as_reader().take(LIST_BYTES_MAX);
        body.read_to_end(&mut answer).map_err(|problem| self.fault(broken(problem, self.settings.stall)))?;
        Ok(answer)
    }

    /// Brings what is missing of a file, until it is whole or the connection ends.
    pub(crate) fn continue_with(
        &self,
        url: &str,
        partial: &mut Partial,
        mut progress: impl FnMut(u64),
    ) -> Result<(), HubError> {
        let mut response = self.get(url, partial.at())?;
        match response.status().as_u16() {
            206 => self.check_range(header(response.headers(), "content-range"), partial)?,
            // What is there is no beginning of what the hub has.
            416 => return partial.restart(),
            _ if partial.at() > 0 => partial.restart()?,
            _ => {}
        }
        let announced = header(response.headers(), "content-length").and_then(|length| length.parse::<u64>().ok());
        if announced.is_some_and(|length| partial.at().checked_add(length) != Some(partial.bytes())) {
            let problem = format!("it has other than the {} bytes of the hub's list", partial.bytes());
            return Err(HubError::BadAnswer { what: self.asked.what(), problem });
        }
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        while !partial.is_whole() {
            let room = chunk.len().min(usize::try_from(partial.bytes() - partial.at()).unwrap_or(usize::MAX));
            match body.read(&mut chunk[..room]) {
                Ok(0) => return Err(self.fault(Fault::Cut { at: partial.at(), bytes: partial.bytes() })),
                Ok(count) => partial.append(&chunk[..count])?,
                Err(problem) => {
                    let fault = match broken(problem, self.settings.stall) {
                        Fault::Broken(_) if partial.at() > 0 => Fault::Cut { at: partial.at(), bytes: partial.bytes() },
                        fault => fault,
                    };
                    return Err(self.fault(fault));
                }
            }
            progress(partial.at());
        }
        Ok(())
    }

    /// `bytes FROM-TO/ALL`
    fn check_range(&self, range: Option<&str>, partial: &Partial) -> Result<(), HubError> {
        let from = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
        if from == Some(partial.at()) {
            return Ok(());
        }
        let problem = format!("it begins elsewhere than at byte {}, as was asked", partial.at());
        Err(HubError::BadAnswer { what: self.asked.what(), problem })
    }

    fn fault(&self, fault: Fault) -> HubError {
        HubError::Transfer { what: self.asked.what(), fault, tries: 1 }
    }

    /// No answer at all.
    fn failed(&self, error: Error) -> HubError {
        match error {
            Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                self.unreachable(format!("no connection within {} s", CONNECT.as_secs()))
            }
            Error::Timeout(_) => self.fault(Fault::Stalled(self.settings.stall)),
            Error::HostNotFound => self.unreachable("its name is not known".to_owned()),
            Error::Io(problem) if is_of_a_connection(&problem) => self.fault(broken(problem, self.settings.stall)),
            Error::Io(problem) => self.unreachable(problem.to_string()),
            Error::Protocol(problem) => self.fault(Fault::Broken(problem.to_string())),
            // Another try would not help.
            Error::BadUri(_)
            | Error::Http(_)
            | Error::TooManyRedirects
            | Error::InvalidProxyUrl
            | Error::RequireHttpsOnly(_) => HubError::BadAnswer { what: self.asked.what(), problem: error.to_string() },
            error => self.unreachable(error.to_string()),
        }
    }

    fn unreachable(&self, problem: String) -> HubError {
        self.fault(Fault::Unreachable(format!("{}: {problem}", self.settings.endpoint)))
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Whether there was a connection that such a problem can be of.
fn is_of_a_connection(problem: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(problem.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof)
}

fn broken(problem: io::Error, stall: Duration) -> Fault {
    let timed_out = problem.kind() == io::ErrorKind::TimedOut
        || problem
            .get_ref()
            .and_then(|inner| inner.downcast_ref())
            .is_some_and(|error| matches!(error, Error::Timeout(_)));
    if timed_out { Fault::Stalled(stall) } else { Fault::Broken(problem.to_string()) }
}
