//! The edge-tune command line.
fn main() {}
