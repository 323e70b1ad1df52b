//! How far a student is from its teacher.

use crate::DistillError;
use crate::softmax::{divergence, log_softmax};
use crate::teacher::outputs;
use cnn_core::data::{Dataset, batch};
use cnn_core::tensor::slice;
use cnn_core::{Error, Graph, Result};

/// Images that go through the networks at once.
const BATCH: usize = 250;

/// Mean `KL(q_teacher(T) || q_student(T))` over a data set, in nats.
///
/// ```
/// use cnn_core::testing::{lenet5, stripes};
/// let (a, b, data) = (lenet5(0)?, lenet5(1)?, stripes(10, [1, 28, 28], 10, 0)?);
/// assert_eq!(cnn_distill::mean_divergence(&a, &a, &data, 4.0)?, 0.0);
/// assert!(cnn_distill::mean_divergence(&a, &b, &data, 4.0)? > 0.0);
/// # Ok::<(), cnn_core::Error>(())
/// ```
///
/// # Errors
/// If the temperature is out of range, there are no images, or the networks do not fit them and each other.
pub fn mean_divergence(
    teacher: &Graph,
    student: &Graph,
    data: &dyn Dataset,
    temperature: f64,
) -> Result<f64> {
    crate::Teaching { temperature, ..crate::Teaching::default() }.check()?;
    let (wanted, found) = (outputs("teacher", teacher)?, outputs("student", student)?);
    if found != wanted {
        return Err(DistillError::Classes { who: "student", found, wanted }.into());
    }
    if data.is_empty() {
        return Err(Error::Data("there are no images to compare on".into()));
    }
    let all: Vec<usize> = (0..data.len()).collect();
    let (mut log_p, mut log_q) = (vec![0.0; wanted], vec![0.0; wanted]);
    let mut total = 0.0;
    for ids in all.chunks(BATCH) {
        let (images, _) = batch(data, ids)?;
        let (p, q) = (teacher.infer(&images)?, student.infer(&images)?);
        for (p, q) in slice(&p)?.chunks(wanted).zip(slice(&q)?.chunks(wanted)) {
            log_softmax(p, temperature, &mut log_p);
            log_softmax(q, temperature, &mut log_q);
            total += divergence(&log_p, &log_q);
        }
    }
    Ok(total / data.len() as f64)
}
