//! On the repository's art.
