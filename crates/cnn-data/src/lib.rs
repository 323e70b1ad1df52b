//! Image data sets, augmentation, and embedded handwritten digits:flate2.
