//! Solvers and guidance for anything that has a velocity.
