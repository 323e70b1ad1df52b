//! The loss of a student under a teacher.

use crate::DistillError;
use crate::anneal::Anneal;
use crate::softmax::{divergence, log_softmax};
use crate::teacher::Teacher;
use cnn_core::tensor::{elements, slice, slice_mut, zeros};
use cnn_core::train::{Batch, CrossEntropy, Loss, Objective};
use cnn_core::{Error, Graph, Result, Tensor};
use serde::{Deserialize, Serialize};

/// How a teacher teaches; also the method `distill.teacher`, see [`teach`](crate::teach).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Teaching {
    /// `T0`, the temperature of the first epoch; 4 by default, from 0.01 to 1000.
    pub temperature: f64,
    /// Weight of the teacher, from 0 (labels only) to 1 (teacher only); 0.7 by default.
    pub alpha: f64,
    /// How the temperature falls; in three steps by default.
    pub anneal: Anneal,
    /// Remember the teacher's logits by sample, unless the images are augmented; true by default. Costs `4
    /// classes` bytes a sample and saves all passes of the teacher but one.
    pub cache: bool,
}

impl Default for Teaching {
    fn default() -> Teaching {
        Teaching { temperature: 4.0, alpha: 0.7, anneal: Anneal::default(), cache: true }
    }
}

impl Teaching {
    /// Checks the settings.
    ///
    /// # Errors
    /// A [`DistillError`] that names the setting.
    pub fn check(&self) -> Result<(), DistillError> {
        if !(0.01..=1000.0).contains(&self.temperature) {
            return Err(DistillError::Temperature(self.temperature));
        }
        if !(0.0..=1.0).contains(&self.alpha) {
            return Err(DistillError::Alpha(self.alpha));
        }
        self.anneal.check()
    }
}

/// The objective of Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network" (SPEC eq. 6):
///
/// ```text
/// q_i(T) = exp(z_i / T) / sum_j exp(z_j / T)
/// L = alpha T^2 KL(q_teacher(T) || q_student(T)) + (1 - alpha) CE(y, q_student(1))
/// dL/dz_i = alpha T (q_student,i(T) - q_teacher,i(T)) + (1 - alpha) (q_student,i(1) - y_i)
/// ```
///
/// averaged over the batch. The soft term's gradient would shrink as `1 / T^2`, which the factor `T^2`
/// undoes, at every temperature of the course. The teacher sees the very images that the student sees,
/// augmented if they are.
#[derive(Debug)]
pub struct SoftTargets {
    teacher: Teacher,
    teaching: Teaching,
    /// The term that is weighted by `1 - alpha`.
    hard: Box<dyn Objective>,
    temperature: f64,
}

impl SoftTargets {
    /// The objective with cross-entropy as the term of the labels.
    ///
    /// # Errors
    /// If a setting is out of range, or the teacher's output is no logits.
    pub fn new(teacher: Graph, teaching: Teaching) -> Result<SoftTargets> {
        teaching.check()?;
        let teacher = Teacher::new(teacher, teaching.cache)?;
        let temperature = teaching.temperature;
        Ok(SoftTargets { teacher, teaching, hard: Box::new(CrossEntropy::default()), temperature })
    }

    /// The same with another loss in the place of cross-entropy.
    pub fn with_hard(self, hard: Box<dyn Objective>) -> SoftTargets {
        SoftTargets { hard, ..self }
    }

    /// The temperature in force.
    pub fn temperature(&self) -> f64 {
        self.temperature
    }

    /// Adds `alpha T^2 KL` and its gradient to a loss.
    fn soften(&mut self, batch: &Batch<'_>, logits: &Tensor, loss: &mut Loss) -> Result<()> {
        let classes = self.teacher.classes;
        let found = elements(logits.shape().get(1..).unwrap_or(&[]));
        if found != classes {
            return Err(DistillError::Classes { who: "student", found, wanted: classes }.into());
        }
        let taught = self.teacher.logits(batch.ids, batch.images)?;
        let students = slice(logits)?;
        if taught.len() != students.len() {
            let (shape, n) = (logits.shape(), batch.ids.len());
            return Err(Error::Shape(format!("logits of shape {shape:?} for {n} samples")));
        }
        let (t, n) = (self.temperature, batch.ids.len() as f64);
        let alpha = self.teaching.alpha;
        let (mut log_p, mut log_q) = (vec![0.0; classes], vec![0.0; classes]);
        let mut total = 0.0;
        let rows = slice_mut(&mut loss.grads[0])?.chunks_mut(classes);
        for ((teacher, student), grad) in taught.chunks(classes).zip(students.chunks(classes)).zip(rows) {
            log_softmax(teacher, t, &mut log_p);
            log_softmax(student, t, &mut log_q);
            total += divergence(&log_p, &log_q);
            for ((grad, p), q) in grad.iter_mut().zip(&log_p).zip(&log_q) {
                *grad = (f64::from(*grad) + alpha * t * (q.exp() - p.exp()) / n) as f32;
            }
        }
        loss.value += alpha * t * t * total / n;
        Ok(())
    }
}

impl Objective for SoftTargets {
    fn nodes(&self) -> Vec<String> {
        if self.teaching.alpha < 1.0 { self.hard.nodes() } else { Vec::new() }
    }

    fn begin_epoch(&mut self, epoch: usize, epochs: usize) {
        self.temperature = self.teaching.anneal.temperature(self.teaching.temperature, epoch, epochs);
        self.hard.begin_epoch(epoch, epochs);
    }

    fn loss(&mut self, batch: &Batch<'_>, outputs: &[&Tensor]) -> Result<Loss> {
        let alpha = self.teaching.alpha;
        let output = *outputs.first().ok_or_else(|| Error::Shape("the loss was given no output".into()))?;
        let mut loss = if alpha < 1.0 {
            let mut loss = self.hard.loss(batch, outputs)?;
            loss.value *= 1.0 - alpha;
            for grad in &mut loss.grads {
                grad.mapv_inplace(|g| (f64::from(g) * (1.0 - alpha)) as f32);
            }
            loss
        } else {
            Loss { value: 0.0, grads: vec![zeros(output.shape())] }
        };
        if alpha > 0.0 {
            self.soften(batch, output, &mut loss)?;
        }
        Ok(loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cnn_core::init::Init;
    use cnn_core::layers::{Flatten, Linear};
    use cnn_core::tensor::tensor;
    use proptest::prelude::*;

    const CLASSES: usize = 4;

    fn teacher(seed: u64) -> Graph {
        let mut graph = Graph::new(&[1, 2, 3]);
        graph.push("flatten", Flatten).unwrap();
        let weight = Init::new(seed).normal(&[CLASSES, 6], 2.0).unwrap();
        graph.push("fc", Linear::new(weight, None).unwrap()).unwrap();
        graph
    }

    fn teaching(temperature: f64, alpha: f64) -> Teaching {
        Teaching { temperature, alpha, anneal: Anneal::Constant, cache: true }
    }

    fn images(n: usize, seed: u64) -> Tensor {
        Init::new(seed).normal(&[n, 1, 2, 3], 1.0).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_gradient_is_that_of_the_loss(
            logits in proptest::collection::vec(-4.0f32..4.0, 3 * CLASSES),
            labels in proptest::collection::vec(0..CLASSES, 3),
            temperature in 0.5f64..10.0, alpha in 0.0f64..=1.0, seed in 0u64..100,
        ) {
            let mut objective = SoftTargets::new(teacher(seed), teaching(temperature, alpha)).unwrap();
            let images = images(3, seed + 1);
            let batch = Batch { ids: &[4, 0, 7], images: &images, labels: &labels };
            let mut at = |logits: &[f32]| {
                objective.loss(&batch, &[&tensor(&[3, CLASSES], logits.to_vec()).unwrap()]).unwrap()
            };
            let loss = at(&logits);
            for i in 0..logits.len() {
                const H: f32 = 1.0 / 256.0;
                let moved = |by: f32| {
                    let mut moved = logits.clone();
                    moved[i] += by;
                    moved
                };
                let (up, down) = (moved(H), moved(-H));
                let numeric = (at(&up).value - at(&down).value) / f64::from(up[i] - down[i]);
                let analytic = f64::from(loss.grads[0].as_slice().unwrap()[i]);
                let error = (numeric - analytic).abs();
                prop_assert!(error < 1e-4 * (1.0 + numeric.abs()), "{} {}", numeric, analytic);
            }
        }

        #[test]
        fn without_weight_the_teacher_changes_no_bit(
            logits in proptest::collection::vec(-4.0f32..4.0, 3 * CLASSES),
            labels in proptest::collection::vec(0..CLASSES, 3),
        ) {
            let images = images(3, 1);
            let batch = Batch { ids: &[0, 1, 2], images: &images, labels: &labels };
            let logits = tensor(&[3, CLASSES], logits).unwrap();
            let plain = CrossEntropy::default().loss(&batch, &[&logits]).unwrap();
            let mut objective = SoftTargets::new(teacher(1), teaching(1.0, 0.0)).unwrap();
            let taught = objective.loss(&batch, &[&logits]).unwrap();
            prop_assert_eq!(plain.value.to_bits(), taught.value.to_bits());
            prop_assert_eq!(plain.grads, taught.grads);
        }
    }

    #[test]
    fn a_student_like_its_teacher_has_no_soft_loss() {
        let (graph, images) = (teacher(3), images(5, 2));
        let logits = graph.infer(&images).unwrap();
        let mut objective = SoftTargets::new(graph, teaching(3.0, 1.0)).unwrap();
        let batch = Batch { ids: &[0, 1, 2, 3, 4], images: &images, labels: &[0, 1, 2, 3, 0] };
        let loss = objective.loss(&batch, &[&logits]).unwrap();
        assert_eq!(loss.value, 0.0);
        assert!(loss.grads[0].iter().all(|&g| g == 0.0));
    }

    /// At a high temperature the soft gradient tends to `(z - v) / (n classes)` for logits of mean 0 (Hinton
    /// et al. 2015, section 2.1, eq. 4, times `T^2`): it does not vanish with `T`.
    #[test]
    fn a_high_temperature_matches_logits() {
        let (graph, images) = (teacher(3), images(1, 2));
        let centred = |t: &Tensor| {
            let mean = t.sum() / CLASSES as f32;
            t.mapv(|v| v - mean)
        };
        let v = centred(&graph.infer(&images).unwrap());
        let z = centred(&tensor(&[1, CLASSES], vec![0.5, -1.0, 2.0, 0.1]).unwrap());
        let mut objective = SoftTargets::new(graph, teaching(1000.0, 1.0)).unwrap();
        let batch = Batch { ids: &[0], images: &images, labels: &[0] };
        let loss = objective.loss(&batch, &[&z]).unwrap();
        for ((g, z), v) in loss.grads[0].iter().zip(&z).zip(&v) {
            assert!((g - (z - v) / CLASSES as f32).abs() < 0.01, "{g} {z} {v}");
        }
    }

    #[test]
    fn remembered_logits_are_the_same_bits_and_do_not_go_stale() {
        let logits = tensor(&[2, CLASSES], (0..8).map(|v| v as f32 / 3.0).collect()).unwrap();
        let mut with = SoftTargets::new(teacher(5), teaching(2.0, 0.5)).unwrap();
        let mut without =
            SoftTargets::new(teacher(5), Teaching { cache: false, ..teaching(2.0, 0.5) }).unwrap();
        let all = images(4, 9);
        // other batches of the same samples, then other images under the same numbers
        let mut check = |ids: &[usize], images: &Tensor| {
            let batch = Batch { ids, images, labels: &[1, 2] };
            let (a, b) = (with.loss(&batch, &[&logits]).unwrap(), without.loss(&batch, &[&logits]).unwrap());
            assert_eq!((a.value.to_bits(), a.grads), (b.value.to_bits(), b.grads));
        };
        for pair in [[0, 1], [1, 2], [3, 0], [2, 1]] {
            check(&pair, &all.select(ndarray::Axis(0), &pair));
        }
        check(&[0, 1], &images(2, 10));
    }

    #[test]
    fn the_temperature_follows_the_epochs() {
        let mut objective = SoftTargets::new(teacher(1), Teaching::default()).unwrap();
        let course: Vec<f64> = (0..6)
            .map(|epoch| {
                objective.begin_epoch(epoch, 6);
                objective.temperature()
            })
            .collect();
        assert_eq!(course, [4.0, 4.0, 2.0, 2.0, 1.0, 1.0]);
    }

    #[test]
    fn bad_settings_and_shapes_are_refused() {
        for t in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(matches!(teaching(t, 0.5).check(), Err(DistillError::Temperature(_))));
        }
        for alpha in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(teaching(4.0, alpha).check(), Err(DistillError::Alpha(_))));
            assert!(SoftTargets::new(teacher(0), teaching(4.0, alpha)).is_err());
        }
        let mut objective = SoftTargets::new(teacher(1), teaching(2.0, 0.5)).unwrap();
        let images = images(2, 1);
        let batch = Batch { ids: &[0, 1], images: &images, labels: &[0, 1] };
        assert!(objective.loss(&batch, &[]).is_err());
        assert!(objective.loss(&batch, &[&zeros(&[2, 3])]).is_err());
        assert!(objective.loss(&batch, &[&zeros(&[3, CLASSES])]).is_err());
        let short = Batch { ids: &[0], images: &images, labels: &[0, 1] };
        assert!(objective.loss(&short, &[&zeros(&[2, CLASSES])]).is_err());
        let alone = Teaching { alpha: 1.0, ..teaching(2.0, 0.5) };
        let mut objective = SoftTargets::new(teacher(1), alone).unwrap();
        assert!(objective.loss(&batch, &[&zeros(&[3, CLASSES])]).is_err());
    }

    #[test]
    fn a_teacher_that_gives_no_numbers_is_refused() {
        let mut images = images(2, 1);
        images[[1, 0, 0, 0]] = f32::NAN;
        let mut objective = SoftTargets::new(teacher(1), teaching(2.0, 0.5)).unwrap();
        let batch = Batch { ids: &[3, 8], images: &images, labels: &[0, 1] };
        let error = objective.loss(&batch, &[&zeros(&[2, CLASSES])]).unwrap_err();
        assert!(error.to_string().contains("sample 8"), "{error}");
    }
}
