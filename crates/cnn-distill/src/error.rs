//! What can go wrong in distillation.

/// Each message names the setting or the network, and the remedy.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DistillError {
    /// A temperature that is none.
    #[error("`temperature` is {0}: between 0.01 and 1000, often 2 to 10")]
    Temperature(f64),
    /// A share that is none.
    #[error("`alpha` is {0}: the weight of the teacher is from 0 (labels only) to 1 (teacher only)")]
    Alpha(f64),
    /// Steps that do not step.
    #[error("`anneal` has {0} steps: at least 2, from the temperature down to 1")]
    Steps(usize),
    /// A learning rate that is none.
    #[error("`rate` is {0}: a learning rate is finite and above 0")]
    Rate(f32),
    /// A width multiplier that is none.
    #[error("`width` is {0}: a width multiplier is finite and above 0")]
    Width(f64),
    /// No student was named.
    #[error("`student` names no network; registered are: {known}")]
    NoStudent {
        /// The registered networks, comma separated.
        known: String,
    },
    /// A student that is not smaller than its teacher.
    #[error(
        "the student `{student}` has {student_params} parameters, the teacher {teacher_params}: choose a \
         smaller network or `width`"
    )]
    NotSmaller {
        /// The student's name.
        student: String,
        /// Its parameters.
        student_params: u64,
        /// The teacher's parameters.
        teacher_params: u64,
    },
    /// A network for another number of classes.
    #[error("the {who} has {found} outputs, but there are {wanted} classes")]
    Classes {
        /// "teacher" or "student".
        who: &'static str,
        /// Its outputs for an image.
        found: usize,
        /// The classes of the data, or the outputs of the other network.
        wanted: usize,
    },
    /// A network for other images.
    #[error("the {who} takes images of shape {found:?}, but they have {wanted:?}")]
    Images {
        /// "teacher" or "student".
        who: &'static str,
        /// The shape it takes.
        found: Vec<usize>,
        /// The shape of the images.
        wanted: Vec<usize>,
    },
    /// The teacher was trained on images that were preprocessed otherwise.
    #[error(
        "the teacher was trained on images with another mean or deviation than these; preprocess them as \
         for the teacher"
    )]
    Preprocess,
    /// A network whose outputs are probabilities: they have no temperature.
    #[error("the {who} ends in the softmax `{node}`, but distillation works on logits; `remove` that node")]
    Softmax {
        /// "teacher" or "student".
        who: &'static str,
        /// The softmax.
        node: String,
    },
    /// Logits that are not numbers.
    #[error("the teacher's logits for sample {sample} are not finite; train the teacher again")]
    NotFinite {
        /// Position in the data set.
        sample: usize,
    },
}

impl From<DistillError> for cnn_core::Error {
    fn from(error: DistillError) -> cnn_core::Error {
        cnn_core::Error::method(error)
    }
}
