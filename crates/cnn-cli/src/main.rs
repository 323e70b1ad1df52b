//! The `cnn` command.
fn main() {}
