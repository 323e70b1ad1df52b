//! Quantization of convolutional networks: weight sharing, 8-bit integers.
