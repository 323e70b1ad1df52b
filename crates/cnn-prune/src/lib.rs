//! Pruning of convolutional networks: masks, schedules, sparse layers.
