//! Training: forward and backward over a graph, losses, optimizers, schedules, and the loop with its checkpoints.

mod checkpoint;
mod evaluate;
mod gradients;
mod hook;
mod objective;
mod optimizer;
mod pool;
mod progress;
mod schedule;
mod seed;
mod tape;
mod trainable;
mod trainer;

pub use evaluate::{Evaluation, accuracy, evaluate, for_each_batch};
pub use gradients::for_each_gradient;
pub use hook::{EpochInfo, Hook, StepInfo};
pub use objective::{Batch, CrossEntropy, Loss, Objective};
pub use optimizer::Optimizer;
pub use pool::Pool;
pub use progress::Progress;
pub use schedule::Schedule;
pub use tape::Tape;
pub use trainable::{Backward, Input, Needs, Saved, Step, Trainable};
pub use trainer::{EpochRecord, EpochRule, History, TrainData, TrainSettings, forward_backward, train};
