//! Light network structures, builders by name, and substitution of convolutions.
