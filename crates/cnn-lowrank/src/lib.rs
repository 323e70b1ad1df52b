//! Low-rank factorization of convolutional networks: SVD, Tucker-2.
