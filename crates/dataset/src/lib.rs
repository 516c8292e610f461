//! Pictures with captions.
