//! Integration tests, one binary, because each binary links all of ggml.

mod frontend;
