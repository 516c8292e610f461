//! The velocity network: MMDiT and MMDiT-X.
