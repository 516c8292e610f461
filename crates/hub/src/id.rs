use std::fmt;

/// What names a repository at a revision: `owner/name` or `owner/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryId {
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) revision: String,
}

/// A repository, or a file or folder in it: `owner/name@revision/folder/file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubPath {
    /// The repository.
    pub repository: RepositoryId,
    /// The file or folder in it, with `/` between names; none for the whole.
    pub inside: Option<String>,
}

/// Without one in the id.
const BRANCH: &str = "main";

/// Revisions with slashes that hubs have: of pull requests and of converted data.
const LONG_REVISIONS: [&str; 2] = ["refs/pr/", "refs/convert/"];

impl HubPath {
    /// The text as an id, if it has that form. A path that begins with `/`, `.` or `~`, or has `..` in it, has not, and
    /// no `a/b.safetensors`: that is the name of a file.
    pub fn parse(text: &str) -> Option<HubPath> {
        let (owner, rest) = text.split_once('/')?;
        let name_len = rest.find(['@', '/']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(name_len);
        let (revision, rest) = match rest.strip_prefix('@') {
            Some(rest) => revision(rest)?,
            None => (BRANCH, rest),
        };
        let inside = match rest.strip_prefix('/') {
            Some(inside) if is_inside(inside) => Some(inside.to_owned()),
            Some(_) => return None,
            None => None,
        };
        let is_file = name.ends_with(".safetensors") || name.ends_with(".gguf");
        if !is_word(owner) || !is_word(name) || is_file {
            return None;
        }
        let repository = RepositoryId { owner: owner.to_owned(), name: name.to_owned(), revision: revision.to_owned() };
        Some(HubPath { repository, inside })
    }
}

/// The revision, and what follows it.
fn revision(text: &str) -> Option<(&str, &str)> {
    let long = LONG_REVISIONS.iter().find(|prefix| text.starts_with(**prefix)).map_or(0, |prefix| prefix.len());
    let end = text[long..].find('/').map_or(text.len(), |slash| long + slash);
    is_word(&text[long..end]).then(|| text.split_at(end))
}

fn is_word(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('.')
        && !word.contains("..")
        && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Whether a name from a user or a server stays in the folder that it is put in, on every system.
pub(crate) fn is_inside(path: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    path.split('/').all(is_name) && !path.contains(['\\', ':']) && !path.contains(|c: char| c.is_control())
}

/// `/` in a revision is none between folders of an address.
pub(crate) fn percent_encoded(text: &str, keep_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            b'/' if keep_slashes => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl RepositoryId {
    /// `owner/name`.
    pub fn path(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// Whether the revision is a commit, which never changes.
    pub(crate) fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_lower_hex(text)
}

pub(crate) fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)?;
        if self.revision == BRANCH { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, parts: Option<(&str, &str, &str, Option<&str>)>) {
        let found = HubPath::parse(text);
        let found = found.as_ref().map(|HubPath { repository: id, inside }| {
            (id.owner.as_str(), id.name.as_str(), id.revision.as_str(), inside.as_deref())
        });
        assert_eq!(found, parts, "{text}");
    }

    #[test]
    fn an_id_names_a_repository_a_revision_and_what_is_inside() {
        let name = "stable-diffusion-3.5-medium";
        check(&format!("stabilityai/{name}"), Some(("stabilityai", name, "main", None)));
        check("a/b@v1.0", Some(("a", "b", "v1.0", None)));
        check("a/b/c/d.safetensors", Some(("a", "b", "main", Some("c/d.safetensors"))));
        check("a/b@x/c.safetensors", Some(("a", "b", "x", Some("c.safetensors"))));
        check("a/b@refs/pr/7", Some(("a", "b", "refs/pr/7", None)));
        check("a/b@refs/pr/7/c", Some(("a", "b", "refs/pr/7", Some("c"))));
    }

    #[test]
    fn paths_are_no_ids() {
        for path in [
            "a",
            "./a",
            "../a",
            "/a",
            "/a/b",
            "a/",
            "a//b",
            "a/b/",
            "~/a",
            "a b/c",
            "a/b.safetensors",
            "a/b.gguf",
            "a/..",
            "a/b/..",
            "a/b/../c",
            "a/b@",
            "a/b@/c",
            "a/b@..",
            "a\\b",
            "a/b/c:d",
            "a/b@refs/pr/",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn names_that_leave_their_folder_are_known() {
        for name in ["../x", "a/../../x", "/x", "a//x", "./x", "C:x", "a\\..\\x", "a\0", "", "a/", ".."] {
            assert!(!is_inside(name), "{name:?}");
        }
        for name in ["x", "a/x", "..x", "a/.x", "a b/\u{e9}"] {
            assert!(is_inside(name), "{name:?}");
        }
    }

    #[test]
    fn what_an_address_would_misread_is_encoded() {
        assert_eq!(percent_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(percent_encoded("a/b c?#%", true), "a/b%20c%3F%23%25");
    }
}
