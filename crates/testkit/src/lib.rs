//! Golden files, tolerances and tiny models for the tests.
