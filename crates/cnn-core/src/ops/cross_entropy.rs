//! Cross entropy with label smoothing.
//!
//! With `p = softmax(logits)` and the target distribution
//! `q_k = (1 - smoothing) [k = label] + smoothing / classes`:
//!
//! ```text
//! loss = mean over the batch of -Σ_k q_k log p_k        dlogits = (p - q) / n
//! ```

/// Mean loss of `logits: [n, classes]` for `labels: [n]`; writes its gradient to `dlogits`.
pub fn cross_entropy(
    logits: &[f32],
    labels: &[usize],
    classes: usize,
    smoothing: f32,
    dlogits: &mut [f32],
) -> f64 {
    check(logits, labels, classes);
    assert_eq!(logits.len(), dlogits.len());
    let n = labels.len() as f64;
    let uniform = f64::from(smoothing) / classes as f64;
    let confidence = 1.0 - f64::from(smoothing);
    let mut loss = 0.0;
    let rows = logits.chunks_exact(classes).zip(dlogits.chunks_exact_mut(classes));
    for ((x, dx), &label) in rows.zip(labels) {
        let log_sum = log_sum_exp(x);
        loss += row_loss(x, label, log_sum, confidence, uniform);
        for (k, (dx, &x)) in dx.iter_mut().zip(x).enumerate() {
            let q = uniform + if k == label { confidence } else { 0.0 };
            *dx = (((f64::from(x) - log_sum).exp() - q) / n) as f32;
        }
    }
    loss / n
}

/// Mean loss alone; arguments as [`cross_entropy`].
pub fn cross_entropy_loss(logits: &[f32], labels: &[usize], classes: usize, smoothing: f32) -> f64 {
    check(logits, labels, classes);
    let uniform = f64::from(smoothing) / classes as f64;
    let confidence = 1.0 - f64::from(smoothing);
    let rows = logits.chunks_exact(classes).zip(labels);
    rows.map(|(x, &label)| row_loss(x, label, log_sum_exp(x), confidence, uniform)).sum::<f64>()
        / labels.len() as f64
}

fn check(logits: &[f32], labels: &[usize], classes: usize) {
    assert!(!labels.is_empty() && classes > 0 && logits.len() == labels.len() * classes);
    assert!(labels.iter().all(|&label| label < classes), "label outside the classes");
}

/// `-Σ_k q_k log p_k` with `log p_k = x_k - log_sum`.
fn row_loss(x: &[f32], label: usize, log_sum: f64, confidence: f64, uniform: f64) -> f64 {
    let mut loss = confidence * (log_sum - f64::from(x[label]));
    // Without smoothing a class of logit -inf must not give 0 * inf.
    if uniform > 0.0 {
        loss += uniform * x.iter().map(|&x| log_sum - f64::from(x)).sum::<f64>();
    }
    loss
}

/// `log Σ_k e^(x_k)`, with the maximum taken out so that nothing overflows.
fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + x.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}
