//! The program `culet`.
fn main() {}
