//! Knowledge distillation for convolutional networks.
