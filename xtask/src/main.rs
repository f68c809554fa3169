//! Set-up commands of the repository.
fn main() {}
