//! A line on each method and on each of its keys, for `cnn methods`. What is missing here is listed all the
//! same, with its default and what it takes.

/// A method: name, what it does, and keys with what they mean.
pub type Entry = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const EPOCHS: (&str, &str) = ("epochs", "passes over the training images afterwards; the run's by default");
const NEAREST: (&str, &str) = ("epochs", "epochs of fine-tuning; 0 leaves the nearest weights as they are");
const MIN_INPUTS: (&str, &str) = ("min_inputs", "layers that read fewer channels stay");
const RATE: (&str, &str) = ("rate", "learning rate of the fine-tuning; the run's by default");
const SWEEPS: (&str, &str) = ("sweeps", "sweeps of higher-order orthogonal iteration, at most 100");

const CRITERION: (&str, &str) =
    ("criterion", "how much a weight or a channel matters: l1, l2, taylor, obd, lamp, ...");
const RATIOS: (&str, &str) = ("ratios", "shares of single layers by name pattern, as { conv1 = 0.3 }");
const ROUNDS: (&str, &str) = ("rounds", "rounds of pruning and retraining");
const SCHEDULE: (&str, &str) = ("schedule", "how the share grows over the rounds");
const FINAL_EPOCHS: (&str, &str) = ("final_epochs", "epochs of retraining after the last round");
const LEARNING_RATE: (&str, &str) = ("learning_rate", "of the retraining; the run's by default");
const SAMPLES: (&str, &str) = ("samples", "training images that criteria look at which need them");
const BUDGET: (&str, &str) = (
    "budget",
    "what the network may cost: { macs = 0.5 }, { bytes = 0.5 }, { latency = 0.6 }, { milliseconds = 2.0 }",
);

const CALIBRATION: &str = "training images for the ranges of activations";
const WEIGHT_BITS: &str = "bits of a weight, 2 to 8";
const ACTIVATION_BITS: &str = "bits of an activation, 2 to 8";
const BITS_PER_LAYER: &str = "other bits by name pattern, as { conv1 = { weights = 8, activations = 8 } }";

/// What is known.
pub const METHODS: &[Entry] = &[
    (
        "prune.weights",
        "remove the weights that matter least, in rounds of pruning and retraining (Han et al. 2015)",
        &[
            CRITERION,
            (
                "granularity",
                "what goes at once: weight, kernel, { block = 16 }, { n_of_m = { keep = 2, of = 4 } }",
            ),
            ("ratio", "share of the weights to remove, in [0, 1)"),
            (
                "scope",
                "look for the least in each layer, over all selected layers together, or over those alike",
            ),
            ("threshold", "{ absolute = t } or { deviations = q }: decides instead of the ratio"),
            RATIOS,
            ROUNDS,
            SCHEDULE,
            ("epochs", "epochs of retraining in each round"),
            FINAL_EPOCHS,
            LEARNING_RATE,
            ("max_drop", "percentage points of validation accuracy that may be lost"),
            (
                "bisections",
                "with max_drop: further rounds between the last that held and the first that did not",
            ),
            (
                "rewind",
                "file of the network early in its training, to which weights are set back in each round",
            ),
            SAMPLES,
        ],
    ),
    (
        "prune.gradual",
        "remove weights during one training, with or without regrowth (Zhu & Gupta 2017; Guo et al. 2016)",
        &[
            ("criterion", "l1, l2 or lamp"),
            ("granularity", "what goes at once: weight, kernel, { block = 16 }"),
            ("ratio", "share of the weights to remove, in [0, 1)"),
            (
                "scope",
                "look for the least in each layer, over all selected layers together, or over those alike",
            ),
            RATIOS,
            ("regrow", "removed weights go on being trained and may come back"),
            ("epochs", "of the training; the run's by default"),
            LEARNING_RATE,
            ("ramp", "part of the training after which the share is reached"),
            ("every", "steps from one choice of masks to the next"),
        ],
    ),
    (
        "prune.channels",
        "remove channels with all that is tied to them, by a share or a budget (Li et al. 2017, Fang et al. 2023)",
        &[
            CRITERION,
            ("ratio", "share of the channels to remove, in [0, 1)"),
            ("scope", "rank channels in each layer, over all, or over layers that look alike"),
            RATIOS,
            BUDGET,
            ("min_width", "fewest channels that a layer keeps"),
            (
                "round_to",
                "widths are multiples of this; by default of this machine's vectors, less for narrow layers",
            ),
            ROUNDS,
            SCHEDULE,
            ("epochs", "epochs of retraining in each round but the last"),
            FINAL_EPOCHS,
            LEARNING_RATE,
            SAMPLES,
        ],
    ),
    (
        "prune.lasso",
        "choose input channels by LASSO and reconstruct each layer by least squares (He, Zhang & Sun 2017)",
        &[
            ("ratio", "share of a layer's input channels to remove, in [0, 1)"),
            RATIOS,
            ("samplers", "layers that share their input with others read a selection of its channels"),
            ("samples", "training images"),
            ("positions", "random outputs of each image"),
            ("epochs", "epochs of fine-tuning after the last layer"),
            LEARNING_RATE,
        ],
    ),
    (
        "prune.branches",
        "remove residual branches whole, those first that raise the loss least (Veit et al. 2016)",
        &[
            BUDGET,
            ROUNDS,
            ("epochs", "epochs of retraining in each round but the last"),
            FINAL_EPOCHS,
            LEARNING_RATE,
            ("samples", "training images on which the loss is measured"),
        ],
    ),
    (
        "prune.automatic",
        "prune every layer by a ratio of its own, by its sensitivity and a budget",
        &[
            ("what", "channels or weights"),
            BUDGET,
            ("grid", "the ratios that each layer is tried with, ascending"),
            ROUNDS,
            ("epochs", "epochs of retraining in each round but the last"),
            FINAL_EPOCHS,
            LEARNING_RATE,
        ],
    ),
    (
        "prune.sparse_training",
        "train with a regulariser that pulls towards zero what is pruned afterwards (Liu et al. 2017)",
        &[
            ("penalty", "bn_scale, group_lasso or l1"),
            ("strength", "factor of the penalty in the loss"),
            ("epochs", "of the training; the run's by default"),
            LEARNING_RATE,
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
        "integers of 8 bits or fewer after training (Jacob et al. 2018)",
        &[
            ("calibration", CALIBRATION),
            (
                "observer",
                "how the range of activations is chosen: min_max, moving_average, percentile, kl, mse",
            ),
            ("weights", "how weights are quantized, for each output channel: symmetric, signed, affine"),
            ("weight_range", "how the range of a channel's weights is chosen: min_max, mse"),
            ("weight_bits", WEIGHT_BITS),
            ("activation_bits", ACTIVATION_BITS),
            ("per_layer", BITS_PER_LAYER),
            ("bytes", "at most so many for the whole file: bits by layer are found for it"),
            (
                "ms",
                "at most so many for an image on one thread: the layers that become integers are found for it",
            ),
            ("fold", "batch normalizations go into the convolutions before them first"),
            ("equalize", "channels of neighbouring convolutions get ranges of one size first"),
            ("rounding", "to which of the two points next to it a weight goes: nearest, adaptive"),
            ("bias_correction", "biases make up for what rounding does to the mean of outputs"),
            ("epochs", "epochs of training with the weights on their grids"),
            ("rate", "learning rate in these epochs"),
        ],
    ),
    (
        "quant.qat",
        "integers of 8 to 2 bits with training, the steps of the grids learned (LSQ, Esser et al. 2020; PACT)",
        &[
            ("weight_bits", WEIGHT_BITS),
            ("activation_bits", ACTIVATION_BITS),
            ("ends", "bits of the first and the last selected layer"),
            ("per_layer", BITS_PER_LAYER),
            ("gradient", "what moves the steps of activations: lsq, pact"),
            ("calibration", CALIBRATION),
            ("epochs", "epochs of training"),
            ("rate", "learning rate in these epochs"),
        ],
    ),
    (
        "quant.qdq",
        "integer layers for a network that comes quantized, with QuantizeLinear and DequantizeLinear",
        &[],
    ),
    (
        "quant.binary",
        "weights of one bit or three values, activations of one bit (XNOR-Net, Rastegari et al. 2016)",
        &[
            ("weights", "bwn, binary_connect, twn, ttq"),
            ("activations", "float, or sign: those of inputs less a learned threshold"),
            ("ends", "whether the first and the last selected layer become binary too"),
            ("calibration", "training images for the first thresholds"),
            ("first_stage", "epochs with signs of inputs and float weights before"),
            ("epochs", "epochs of training"),
            ("rate", "learning rate in these epochs"),
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
