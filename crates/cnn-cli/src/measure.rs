//! What a network says of images: right or wrong, and by how much two networks differ.

use crate::session::Session;
use crate::statistics::wilson;
use anyhow::{Result, bail};
use cnn_core::data::batch;
use cnn_core::ops::cross_entropy::cross_entropy_loss;
use cnn_core::tensor::slice;
use cnn_core::train::for_each_batch;
use cnn_core::{Dataset, Graph};
use rayon::prelude::*;
use serde::Serialize;

/// Values of the largest activation of a batch: bounds the memory of an evaluation.
const ACTIVATION: usize = 1 << 23;
/// Most images that go through a network at once.
const BATCH: usize = 64;

/// How many images a network gets right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Images.
    pub images: usize,
    /// Images whose first choice is right.
    pub correct: usize,
    /// `correct / images`.
    pub top1: f64,
    /// 95 % interval of `top1` (Wilson).
    pub interval: [f64; 2],
    /// Share of images whose class is among the first five choices; `None` with five classes or fewer.
    pub top5: Option<f64>,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Images with an output that is not finite; they count as wrong.
    pub not_finite: usize,
    /// For each image whether it is right.
    #[serde(skip)]
    pub right: Vec<bool>,
}

impl Scores {
    /// `8,832 of 10,000 (88.32 %, 95 % interval 87.67 to 88.93)`.
    pub fn text(&self) -> String {
        let [low, high] = self.interval;
        format!(
            "{} of {} ({:.2} %, 95 % interval {:.2} to {:.2})",
            crate::table::grouped(self.correct as u64),
            crate::table::grouped(self.images as u64),
            100.0 * self.top1,
            100.0 * low,
            100.0 * high
        )
    }
}

/// What is kept of an image's outputs.
struct Verdict {
    /// Number of outputs that come before the right class; `None` if an output is not finite.
    rank: Option<usize>,
    loss: f64,
}

/// Runs all images through a compiled network ([`for_each_batch`]). The result does not depend on the number of threads.
///
/// # Errors
/// If there is no image, the network does not fit them, or the user stops it.
pub fn evaluate(graph: &Graph, data: &dyn Dataset, what: &str, session: &Session) -> Result<Scores> {
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(data.len());
    let bar = session.progress().bar(data.len() as u64, what);
    let done = for_each_batch(graph, data, |logits, labels| {
        session.stop.check()?;
        let values = slice(logits)?;
        let classes = values.len() / labels.len();
        if labels.iter().any(|&l| l >= classes) {
            return Err(cnn_core::Error::Data(format!("a label is not below the {classes} outputs")));
        }
        verdicts.extend(values.chunks(classes.max(1)).zip(labels).map(|(z, &label)| verdict(z, label)));
        bar.inc(labels.len() as u64);
        Ok(())
    });
    bar.finish_and_clear();
    done?;
    let images = verdicts.len();
    let right: Vec<bool> = verdicts.iter().map(|v| v.rank == Some(0)).collect();
    let correct = right.iter().filter(|r| **r).count();
    let among = verdicts.iter().filter(|v| v.rank.is_some_and(|r| r < 5)).count();
    Ok(Scores {
        images,
        correct,
        top1: correct as f64 / images as f64,
        interval: wilson(correct, images),
        top5: (data.classes() > 5).then(|| among as f64 / images as f64),
        loss: verdicts.iter().map(|v| v.loss).sum::<f64>() / images as f64,
        not_finite: verdicts.iter().filter(|v| v.rank.is_none()).count(),
        right,
    })
}

fn verdict(logits: &[f32], label: usize) -> Verdict {
    let finite = logits.iter().all(|v| v.is_finite());
    let own = logits[label];
    // of equal outputs the first is the choice
    let before = |(at, &v): (usize, &f32)| v > own || (v == own && at < label);
    let rank = finite.then(|| logits.iter().enumerate().filter(|&x| before(x)).count());
    let loss = if finite { cross_entropy_loss(logits, &[label], logits.len(), 0.0) } else { f64::INFINITY };
    Verdict { rank, loss }
}

/// How far the outputs of two networks are apart.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Images.
    pub images: usize,
    /// Largest `|a - b|` of all outputs.
    pub max: f64,
    /// Mean `|a - b|`.
    pub mean: f64,
    /// `max|a - b| / max|a|` over all images and outputs.
    pub relative: f64,
    /// Images for which both have the same first choice.
    pub same_choice: usize,
    /// Images with an output of either network that is not finite.
    pub not_finite: usize,
    /// Images that the first network gets right.
    pub correct_first: usize,
    /// Images that the second gets right.
    pub correct_second: usize,
}

/// Runs the same images through two networks, both on the reference executor: what differs is the networks, not the rounding of kernels.
///
/// # Errors
/// As [`evaluate`], and if the networks have different outputs.
pub fn difference(a: &Graph, b: &Graph, data: &dyn Dataset, session: &Session) -> Result<Difference> {
    struct One {
        max: f64,
        sum: f64,
        largest: f64,
        outputs: usize,
        finite: bool,
        choices: [Option<usize>; 2],
        label: usize,
    }
    let all: Vec<One> = over_batches(a, data, "comparing", session, |ids| {
        let (images, labels) = batch(data, ids)?;
        let (za, zb) = (a.infer(&images)?, b.infer(&images)?);
        if za.len() != zb.len() {
            return Err(cnn_core::Error::Shape(format!(
                "the first network has outputs {:?} and the second {:?}",
                &za.shape()[1..],
                &zb.shape()[1..]
            )));
        }
        let classes = za.len() / labels.len();
        let rows = slice(&za)?.chunks(classes.max(1)).zip(slice(&zb)?.chunks(classes.max(1)));
        Ok(rows
            .zip(labels)
            .map(|((za, zb), label)| {
                let apart = || za.iter().zip(zb).map(|(x, y)| f64::from((x - y).abs()));
                One {
                    max: apart().fold(0.0, f64::max),
                    sum: apart().sum(),
                    largest: za.iter().map(|v| f64::from(v.abs())).fold(0.0, f64::max),
                    outputs: classes,
                    finite: za.iter().chain(zb).all(|v| v.is_finite()),
                    choices: [first_choice(za), first_choice(zb)],
                    label,
                }
            })
            .collect())
    })?;
    let finite = || all.iter().filter(|o| o.finite);
    let max = finite().map(|o| o.max).fold(0.0, f64::max);
    let largest = finite().map(|o| o.largest).fold(0.0, f64::max);
    let correct = |which: usize| all.iter().filter(|o| o.choices[which] == Some(o.label)).count();
    Ok(Difference {
        images: all.len(),
        max,
        mean: finite().map(|o| o.sum).sum::<f64>() / finite().map(|o| o.outputs).sum::<usize>().max(1) as f64,
        relative: if max == 0.0 { 0.0 } else { max / largest },
        same_choice: all.iter().filter(|o| o.choices[0].is_some() && o.choices[0] == o.choices[1]).count(),
        not_finite: all.iter().filter(|o| !o.finite).count(),
        correct_first: correct(0),
        correct_second: correct(1),
    })
}

/// Position of the largest value, the first of equals; `None` if one is not finite.
fn first_choice(values: &[f32]) -> Option<usize> {
    let finite = values.iter().all(|v| v.is_finite());
    finite.then(|| (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b]))).flatten()
}

/// What `each` says of every batch, in order; several batches at a time.
fn over_batches<T: Send>(
    graph: &Graph,
    data: &dyn Dataset,
    what: &str,
    session: &Session,
    each: impl Fn(&[usize]) -> cnn_core::Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    if data.is_empty() {
        bail!("there are no images");
    }
    let largest = graph.shapes(1)?.iter().map(|s| s.iter().product::<usize>()).max().unwrap_or(1);
    let size = (ACTIVATION / largest.max(1)).clamp(1, BATCH);
    let all: Vec<usize> = (0..data.len()).collect();
    let bar = session.progress().bar(all.len() as u64, what);
    let parts = all.par_chunks(size).map(|ids| {
        session.stop.check()?;
        let part = each(ids)?;
        bar.inc(ids.len() as u64);
        Ok(part)
    });
    let parts = parts.collect::<cnn_core::Result<Vec<Vec<T>>>>();
    bar.finish_and_clear();
    Ok(parts?.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_equals_in_front() {
        let rank = |z: &[f32], label| verdict(z, label).rank;
        assert_eq!(rank(&[1.0, 3.0, 2.0], 1), Some(0));
        assert_eq!(rank(&[1.0, 3.0, 2.0], 0), Some(2));
        assert_eq!(rank(&[5.0, 5.0], 0), Some(0));
        assert_eq!(rank(&[5.0, 5.0], 1), Some(1));
        assert_eq!(rank(&[f32::NAN, 5.0], 1), None);
        assert_eq!(first_choice(&[2.0, 2.0, 1.0]), Some(0));
        assert_eq!(first_choice(&[2.0, f32::INFINITY]), None);
    }
}
