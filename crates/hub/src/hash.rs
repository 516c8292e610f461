use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use crate::id::is_lower_hex;

/// What a hub names content by: the SHA-256 of a large file, git's SHA-1 of a small one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectId(String);

impl ObjectId {
    /// Nothing but hex digits, because it becomes the name of a file.
    pub(crate) fn parse(text: &str) -> Option<ObjectId> {
        (matches!(text.len(), 40 | 64) && is_lower_hex(text)).then(|| ObjectId(text.to_owned()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Begins the hash of content of this kind and size.
    pub(crate) fn begin(&self, bytes: u64) -> Context {
        if self.0.len() == 64 {
            return Context::new(&SHA256);
        }
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {bytes}\0").as_bytes());
        context
    }
}

/// As hex digits.
pub(crate) fn finish(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &str, content: &[u8]) -> String {
        let mut context = ObjectId::parse(kind).unwrap().begin(content.len() as u64);
        context.update(content);
        finish(context)
    }

    /// `printf hello | sha256sum`, `printf hello | git hash-object --stdin`.
    #[test]
    fn both_hashes_are_those_that_hubs_use() {
        let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        assert_eq!(of(sha256, b"hello"), sha256);
        assert_eq!(of(git, b"hello"), git);
    }

    #[test]
    fn nothing_else_is_an_id() {
        for text in ["", "../../x", "ABCDEF", &"A".repeat(40), &"g".repeat(64), &"a".repeat(41)] {
            assert_eq!(ObjectId::parse(text), None, "{text}");
        }
    }
}
