//! SHA-256 of files and numbers: what other tools call a model's hash.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use ring::digest::{Context, Digest, SHA256, digest};

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

/// The SHA-256 of a whole file, in hex.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of_file(path: &Path) -> io::Result<String> {
    let (mut file, mut context, mut piece) = (File::open(path)?, Context::new(&SHA256), vec![0; PIECE]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hex(&context.finish())),
            Ok(read) => context.update(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The SHA-256 of these bytes, in hex.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&digest(&SHA256, bytes))
}

fn hex(digest: &Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_its_bytes_have_the_published_digest() {
        // FIPS 180-2, appendix B: "abc", and a million times "a".
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, vec![b'a'; 1_000_000]).unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
        assert!(sha256_of_file(folder.path()).is_err());
    }
}
