//! publication
fn main() {}
