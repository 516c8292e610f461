//! What a hub says: a repository's list, and why it refuses.

use serde::Deserialize;

use crate::error::HubError;
use crate::hash::ObjectId;
use crate::id::{RepositoryId, is_commit, is_inside};
use crate::repository::RemoteFile;

/// `GET /api/models/OWNER/NAME/revision/REVISION?blobs=true`
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

/// Of files that git does not hold itself.
#[derive(Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// The commit, and what it has, in the order of names.
pub(crate) fn listing(json: &[u8], id: &RepositoryId) -> Result<(String, Vec<RemoteFile>), HubError> {
    let bad = |problem: String| HubError::BadAnswer { what: id.to_string(), problem };
    let info: Info =
        serde_json::from_slice(json).map_err(|problem| bad(format!("it is no list of files: {problem}")))?;
    if !is_commit(&info.sha) {
        return Err(bad(format!("{:?} is no commit", info.sha)));
    }
    // One such name, and nothing of this list is to be trusted.
    if let Some(file) = info.siblings.iter().find(|file| !is_inside(&file.rfilename)) {
        return Err(bad(format!("it names a file {:?}, outside of the repository's folder", file.rfilename)));
    }
    let mut files = info.siblings.into_iter().map(Sibling::read).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((info.sha, files))
}

impl Sibling {
    fn read(self) -> Result<RemoteFile, String> {
        let (text, bytes) = match self.lfs {
            Some(lfs) => (Some(lfs.sha256), Some(lfs.size)),
            None => (self.blob_id, self.size),
        };
        let id = match text {
            Some(text) => Some(ObjectId::parse(&text).ok_or_else(|| format!("{text:?} is no hash of a file"))?),
            None => None,
        };
        Ok(RemoteFile { name: self.rfilename, bytes, id })
    }
}

/// What a refusal says beside its status.
#[derive(Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// `X-Error-Code`.
    pub(crate) code: String,
    /// `X-Error-Message`.
    pub(crate) message: String,
}

/// Who was asked, and by whom.
pub(crate) struct Asked<'a> {
    pub(crate) id: &'a RepositoryId,
    pub(crate) endpoint: &'a str,
    pub(crate) has_token: bool,
    /// The file; none where the list was asked for.
    pub(crate) file: Option<&'a str>,
}

impl Asked<'_> {
    /// `FILE of OWNER/NAME`
    pub(crate) fn what(&self) -> String {
        match self.file {
            Some(file) => format!("`{file}` of {}", self.id),
            None => format!("the list of {}", self.id),
        }
    }

    /// What the refusal means. Hubs answer 401 for a repository that is not there, unless a token was given that they know.
    pub(crate) fn refused(&self, refusal: &Refusal) -> HubError {
        let (repository, endpoint) = (self.id.path(), self.endpoint.to_owned());
        let page = format!("{endpoint}/{repository}");
        match (refusal.status, refusal.code.as_str()) {
            (401 | 403, "GatedRepo") => HubError::Gated { repository, page, has_token: self.has_token },
            (401, _) if self.has_token => HubError::BadToken { endpoint },
            (404, "RevisionNotFound") => HubError::NoRevision { repository, revision: self.id.revision.clone(), page },
            (404, _) if self.file.is_some() => {
                HubError::NoFile { repository, name: self.file.unwrap_or_default().to_owned(), page }
            }
            (401 | 404, _) => HubError::NoRepository { repository, endpoint, has_token: self.has_token },
            (status, _) => {
                let said: String = refusal.message.chars().take(200).collect();
                let message = if said.is_empty() { said } else { format!(", \"{said}\"") };
                HubError::Refused { what: self.what(), status, message }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::HubPath;

    fn id() -> RepositoryId {
        HubPath::parse("a/b@v1").unwrap().repository
    }

    fn list(siblings: &str) -> Result<(String, Vec<RemoteFile>), HubError> {
        let json = format!(r#"{{"sha":"{}","siblings":[{siblings}],"gated":"auto"}}"#, "0".repeat(40));
        listing(json.as_bytes(), &id())
    }

    #[test]
    fn large_files_are_known_by_sha256_and_small_ones_by_gits() {
        let (git, sha256) = ("1".repeat(40), "2".repeat(64));
        let (_, files) = list(&format!(
            r#"{{"rfilename":"z","size":9,"blobId":"{git}","lfs":{{"sha256":"{sha256}","size":10,"pointerSize":1}}}},
               {{"rfilename":"a/b","size":3,"blobId":"{git}"}},{{"rfilename":"c"}}"#
        ))
        .unwrap();
        let of = |file: &RemoteFile| (file.name.clone(), file.bytes, file.id.as_ref().map(|id| id.as_str().to_owned()));
        assert_eq!(
            files.iter().map(of).collect::<Vec<_>>(),
            [("a/b".into(), Some(3), Some(git)), ("c".into(), None, None), ("z".into(), Some(10), Some(sha256))]
        );
    }

    #[test]
    fn answers_that_would_write_elsewhere_are_refused() {
        let good = "1".repeat(40);
        for (name, hash) in [("../x", good.as_str()), ("/etc/x", &good), ("a/../../x", &good), ("x", "../../x")] {
            let said = list(&format!(r#"{{"rfilename":"{name}","size":1,"blobId":"{hash}"}}"#));
            assert!(matches!(said, Err(HubError::BadAnswer { .. })), "{name} {hash}");
        }
        for json in ["", "[]", "<html>", r#"{"sha":"../..","siblings":[]}"#, r#"{"siblings":[]}"#] {
            assert!(matches!(listing(json.as_bytes(), &id()), Err(HubError::BadAnswer { .. })), "{json}");
        }
    }

    #[test]
    fn a_refusal_is_told_apart_by_its_status_and_code() {
        let id = id();
        let said = |status: u16, code: &str, has_token: bool, file: Option<&str>| {
            let asked = Asked { id: &id, endpoint: "https://hub", has_token, file };
            let refusal = Refusal { status, code: code.to_owned(), message: "why".to_owned() };
            asked.refused(&refusal).to_string()
        };
        for (status, code, has_token, file, part) in [
            (401, "GatedRepo", false, Some("x"), "no token was given\nhint: accept it on https://hub/a/b"),
            (403, "GatedRepo", true, Some("x"), "the account of your token has not"),
            (401, "", true, None, "does not know your token"),
            (401, "RepoNotFound", false, None, "everybody may read"),
            (404, "RepoNotFound", true, None, "your token may read"),
            (404, "RevisionNotFound", false, None, "no branch, tag or commit `v1`"),
            (404, "EntryNotFound", false, Some("x"), "a/b has no `x`"),
            (403, "", false, Some("x"), "status 403, \"why\""),
        ] {
            let said = said(status, code, has_token, file);
            assert!(said.contains(part) && said.contains("\nhint: "), "{status} {code}: {said}");
        }
    }
}
