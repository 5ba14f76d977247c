//! codec
fn main() {}
