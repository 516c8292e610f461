//! The `rectiflow` program.
fn main() {}
