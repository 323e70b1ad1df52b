//! What the `cnn` command is made of.
