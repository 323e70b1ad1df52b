//! A line on each method and on each of its keys, for `cnn methods`. What is missing here is listed all the
//! same, with its default and what it takes.

/// A method: name, what it does, and keys with what they mean.
pub type Entry = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const EPOCHS: (&str, &str) = ("epochs", "passes over the training images afterwards; the run's by default");
const NEAREST: (&str, &str) = ("epochs", "epochs of fine-tuning; 0 leaves the nearest weights as they are");
const MIN_INPUTS: (&str, &str) = ("min_inputs", "layers that read fewer channels stay");
const RATE: (&str, &str) = ("rate", "learning rate of the fine-tuning; the run's by default");
const SWEEPS: (&str, &str) = ("sweeps", "sweeps of higher-order orthogonal iteration, at most 100");

/// What is known.
pub const METHODS: &[Entry] = &[
    (
        "prune.weights",
        "remove the smallest weights, in rounds of pruning and retraining (Han et al. 2015)",
        &[
            ("ratio", "share of the weights to remove, in [0, 1)"),
            ("scope", "look for the smallest in each layer, or over all selected layers together"),
            ("threshold", "{ absolute = t } or { deviations = q }: decides instead of the ratio"),
            ("ratios", "shares of single layers by name pattern, as { conv1 = 0.3 }"),
            ("rounds", "rounds of pruning and retraining"),
            ("epochs", "epochs of retraining in each round"),
            ("final_epochs", "epochs of retraining after the last round"),
            ("learning_rate", "of the retraining; the run's by default"),
            ("max_drop", "percentage points of validation accuracy that may be lost"),
            (
                "bisections",
                "with max_drop: further rounds between the last that held and the first that did not",
            ),
        ],
    ),
    (
        "quant.kmeans",
        "weights of a layer share 2^bits values (Han, Mao & Dally 2016)",
        &[
            ("bits", "bits of an index, 1 to 8"),
            ("per_layer", "other bits for layers by name pattern, as { \"conv*\" = 8 }"),
            ("init", "first centroids"),
            ("half", "centroids and biases are 16-bit floats"),
            ("epochs", "epochs in which the centroids are fine-tuned"),
            ("rate", "learning rate of Adam in these epochs"),
        ],
    ),
    (
        "quant.int8",
        "8-bit integers after training (Jacob et al. 2018)",
        &[
            ("calibration", "training images for the ranges of activations"),
            ("weights", "how weights are quantized, for each output channel"),
        ],
    ),
    (
        "lowrank.svd",
        "a linear layer becomes two, by truncated singular value decomposition (Denton et al. 2014)",
        &[
            ("energy", "share of the squared singular values to keep, in (0, 1]"),
            ("rank", "the same rank for all layers, instead of the energy"),
            ("rank_ratio", "the rank as a share of the full one, in (0, 1]"),
            EPOCHS,
            RATE,
        ],
    ),
    (
        "lowrank.tucker2",
        "a convolution becomes 1 x 1, K x K, 1 x 1, by Tucker decomposition (Kim et al. 2016)",
        &[
            ("energy", "share of the squared singular values of each mode to keep, in (0, 1]"),
            ("ranks", "[input, output] ranks for all layers, instead of the energy"),
            ("rank_ratios", "the ranks as shares of the channels, in (0, 1]"),
            SWEEPS,
            EPOCHS,
            RATE,
        ],
    ),
    (
        "lowrank",
        "lowrank.svd and lowrank.tucker2 for a whole network, where they save",
        &[
            ("linear_energy", "share of the squared singular values of a linear layer to keep, in (0, 1]"),
            ("conv_energy", "the same for each channel mode of a convolution"),
            SWEEPS,
            EPOCHS,
            RATE,
        ],
    ),
    (
        "distill.soft_targets",
        "a smaller network learns from this one and takes its place (Hinton, Vinyals & Dean 2015)",
        &[
            ("student", "name of the smaller network, as `cnn networks` lists them; there is no default"),
            ("width", "width multiplier of the student's channels"),
            ("temperature", "of the soft targets"),
            ("alpha", "weight of the soft targets against the labels, in [0, 1]"),
            ("anneal", "how the temperature falls to 1"),
            ("cache", "keep the teacher's outputs when images do not change"),
            ("epochs", "passes over the training images; the run's by default"),
            ("optimizer", "update rule with its learning rate; the run's by default"),
            ("rate", "learning rate, in the place of the optimizer's"),
            ("seed", "of the student's first weights; the run's by default"),
        ],
    ),
    (
        "distill.teacher",
        "whatever trains in the steps after this one learns from the network as it is now, too",
        &[
            ("temperature", "of the soft targets"),
            ("alpha", "weight of the soft targets against the labels, in [0, 1]"),
            ("anneal", "how the temperature falls to 1"),
            ("cache", "keep the teacher's outputs when images do not change"),
        ],
    ),
    (
        "light.separable",
        "convolutions become depthwise and pointwise ones, the nearest to the trained weights",
        &[
            ("multiplier", "depthwise filters for each input channel; more are nearer and cost more"),
            NEAREST,
            RATE,
            MIN_INPUTS,
        ],
    ),
    (
        "light.group_shuffle",
        "convolutions become two in groups with a channel shuffle between, the nearest to the trained weights",
        &[
            ("groups", "groups; more are cheaper and further off"),
            ("inner", "channels between the two convolutions over the filters"),
            NEAREST,
            RATE,
            MIN_INPUTS,
        ],
    ),
    (
        "light.inverted_residual",
        "convolutions become expansion, depthwise and projection, the nearest to the trained weights",
        &[
            ("expansion", "channels after the expansion for each input channel"),
            ("rectify", "a rectifier behind the expansion where the input cannot be negative"),
            NEAREST,
            RATE,
            MIN_INPUTS,
        ],
    ),
];

/// What a method does; empty if nothing is said.
pub fn of_method(name: &str) -> &'static str {
    METHODS.iter().find(|m| m.0 == name).map_or("", |m| m.1)
}

/// What a key means; empty if nothing is said.
pub fn of_key(method: &str, key: &str) -> &'static str {
    let keys = METHODS.iter().find(|m| m.0 == method).map_or(&[][..], |m| m.2);
    keys.iter().find(|k| k.0 == key).map_or("", |k| k.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn nothing_is_described_that_is_not_there() {
        let registry = crate::registry();
        for (method, _, keys) in METHODS {
            let config = registry.build_method(method, Value::Null).unwrap().config();
            for (key, _) in *keys {
                assert!(config.get(key).is_some(), "{method} has no key {key}");
            }
        }
    }
}
