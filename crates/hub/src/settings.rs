use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::HubError;

/// Where the hub is, where its files go, and who asks. The variables are those of Python's `huggingface_hub`, with its
/// meanings: <https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>.
#[derive(Clone)]
pub struct Settings {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// What the hub knows the user by.
    pub token: Option<String>,
    /// Only the cache is used.
    pub offline: bool,
    /// How long a connection may bring nothing.
    pub stall: Duration,
    /// How long is waited before a failed transfer is tried again; twice as long each next time.
    pub first_wait: Duration,
}

const ENDPOINT: &str = "https://huggingface.co";
const STALL: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_secs(1);

impl Settings {
    /// What the environment says.
    ///
    /// # Errors
    /// A variable has a value that cannot be meant, or there is no place for the cache.
    pub fn from_environment() -> Result<Settings, HubError> {
        Settings::from_variables(&|name| std::env::var(name).ok(), std::env::home_dir().as_deref())
    }

    fn from_variables(
        variable: &dyn Fn(&str) -> Option<String>,
        user_home: Option<&Path>,
    ) -> Result<Settings, HubError> {
        let given = |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
        let folder = |name: &str| given(name).map(|text| at_home(&text, user_home));
        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| user_home.map(|home| home.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| {
                HubError::bad_setting("HF_HOME", "", "a folder: the system names no home folder of yours")
            })?;
        let token_file = folder("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        // A file that is not there is no token, as with Python's tools.
        let stored =
            || Some(std::fs::read_to_string(token_file?).ok()?.trim().to_owned()).filter(|text| !text.is_empty());
        let token = given("HF_TOKEN").or_else(|| given("HUGGING_FACE_HUB_TOKEN")).or_else(stored);
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            // Not with its value: that is a secret.
            return Err(HubError::bad_setting("HF_TOKEN", "...", "one word: `hf_` and letters"));
        }
        Ok(Settings {
            endpoint: endpoint(given("HF_ENDPOINT"))?,
            cache,
            token,
            offline: given("HF_HUB_OFFLINE").is_some_and(|text| is_yes(&text)),
            stall: given("HF_HUB_DOWNLOAD_TIMEOUT")
                .map_or(Ok(STALL), |text| seconds("HF_HUB_DOWNLOAD_TIMEOUT", &text))?,
            first_wait: FIRST_WAIT,
        })
    }
}

/// A leading `~` is the user's home: variables that no shell has read may have one.
fn at_home(text: &str, user_home: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~').map(|rest| rest.trim_start_matches('/')), user_home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

fn endpoint(given: Option<String>) -> Result<String, HubError> {
    let Some(address) = given else { return Ok(ENDPOINT.to_owned()) };
    let address = address.trim_end_matches('/');
    let is_web = address.starts_with("https://") || address.starts_with("http://");
    if is_web && address.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(address.to_owned())
    } else {
        Err(HubError::bad_setting("HF_ENDPOINT", address, "an address that begins with https:// or http://"))
    }
}

fn is_yes(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

fn seconds(name: &'static str, text: &str) -> Result<Duration, HubError> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| HubError::bad_setting(name, text, "seconds above 0, such as 30"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, text)| (*text).to_owned());
        Settings::from_variables(&find, Some(Path::new("/home/me")))
    }

    #[test]
    fn the_cache_lies_where_pythons_tools_put_it() {
        for (variables, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
            (&[("HF_HOME", "~/h")], "/home/me/h/hub"),
            (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")], "/c"),
            (&[("HF_HUB_CACHE", " "), ("HUGGINGFACE_HUB_CACHE", "/d")], "/d"),
        ] {
            assert_eq!(read(variables).ok().map(|settings| settings.cache), Some(PathBuf::from(cache)));
        }
    }

    #[test]
    fn a_token_is_the_variables_before_the_files() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let (home, other) = (folder.path().to_string_lossy(), folder.path().join("other"));
        let token = |variables: &[(&str, &str)]| read(variables).ok().and_then(|settings| settings.token);
        assert_eq!(token(&[("HF_HOME", &home)]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_HOME", &home), ("HF_TOKEN", " hf_x\n")]).as_deref(), Some("hf_x"));
        assert_eq!(
            token(&[("HF_HOME", &home), ("HF_TOKEN_PATH", &other.to_string_lossy())]).as_deref(),
            Some("hf_other")
        );
        assert_eq!(token(&[("HF_HOME", "/nowhere")]), None);
    }

    #[test]
    fn values_that_cannot_be_meant_are_errors_without_secrets() {
        for (name, value) in [
            ("HF_ENDPOINT", "hub.example"),
            ("HF_ENDPOINT", "https://a b"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "1e300"),
            ("HF_TOKEN", "hf_sec ret"),
        ] {
            let said = read(&[(name, value)]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(name) && !said.contains("sec ret"), "{said}");
        }
        let settings = read(&[("HF_ENDPOINT", "http://127.0.0.1:1/"), ("HF_HUB_OFFLINE", "True")]).ok().unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.offline, settings.stall), ("http://127.0.0.1:1", true, STALL));
    }
}
