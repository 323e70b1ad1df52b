//! Recipes: what is wrong is said with its place and what is allowed.

use cnn_cli::recipe::{Colours, PerChannel, Recipe, RecipeError, Rule};
use cnn_cli::registry;
use cnn_core::train::{Optimizer, Schedule};
use cnn_core::{Compressor, NetworkOptions};
use serde_json::json;

fn parse(text: &str) -> Result<Recipe, RecipeError> {
    Recipe::parse(text, "r.toml", &registry())
}

/// The error's place, and its whole text.
fn wrong(text: &str) -> (usize, usize, String) {
    match parse(text).expect_err(text) {
        RecipeError::At(at) => (at.line, at.column, at.to_string()),
        other => panic!("{other:?}"),
    }
}

const WHOLE: &str = r#"
[data]
size = 256
crop = [224, 224]
mean = 0.5
std = [0.2, 0.2, 0.3]
channels = "bgr"
classes = ["cat", "dog"]
augment = { crop = 4, flip = true }
validation = 0.2

[[step]]
method = "prune.weights"
ratio = 0.9
ratios = { conv1 = 0.3 }
only = ["conv*", "fc"]
skip = ["conv2"]
finetune = { epochs = 3, learning_rate = 0.5, schedule = { step = { at = [1], factor = 0.1 } } }

[[step]]
method = "quant.kmeans"
bits = 5

[train]
optimizer = "adamw"
batch = 16
"#;

#[test]
fn a_whole_recipe() {
    let recipe = parse(WHOLE).unwrap();
    assert_eq!(recipe.data.size.unwrap().sides(), [256, 256]);
    assert_eq!(recipe.data.crop.unwrap().sides(), [224, 224]);
    assert_eq!(recipe.data.mean, Some(PerChannel::All(0.5)));
    assert_eq!(recipe.data.channels, Some(Colours::Bgr));
    assert_eq!(recipe.train.optimizer, Some(Rule::Adamw));
    let settings = recipe.settings().unwrap();
    assert_eq!((settings.batch, settings.optimizer), (16, Optimizer::adamw(0.001, 5e-4)));

    let step = &recipe.steps[0];
    let layers = json!({ "only": ["conv*", "fc"], "skip": ["conv2"] });
    assert_eq!(step.config, json!({ "ratio": 0.9, "ratios": { "conv1": 0.3 }, "layers": layers }));
    let tuned = step.finetune.as_ref().unwrap().over(&settings).unwrap();
    assert_eq!((tuned.epochs, tuned.batch), (3, 16));
    assert_eq!(tuned.optimizer, Optimizer::adamw(0.5, 5e-4));
    assert_eq!(tuned.schedule, Schedule::Step { at: vec![1], factor: 0.1 });

    let chain = recipe.chain("both", &registry()).unwrap();
    let config = chain.config();
    assert_eq!(config[0]["config"]["ratio"], json!(0.9));
    assert_eq!(config[0]["config"]["finetune"]["epochs"], json!(3));
    assert_eq!(config[1]["method"], json!("quant.kmeans"));
}

#[test]
fn an_unknown_key_of_a_method_lists_the_keys() {
    let (line, column, text) = wrong("[[step]]\nmethod = \"quant.kmeans\"\n  bit = 5\n");
    assert_eq!((line, column), (3, 3));
    let expected = [
        "r.toml:3:3: unknown key `bit` of quant.kmeans; did you mean `bits`?",
        "  3 |   bit = 5",
        "    |   ^^^",
        "  allowed are: method, only, skip, finetune, bits, clusters, curvature, epochs, error, gradient, half, init, per_layer, rate, sharing",
    ];
    let text: Vec<&str> = text.lines().collect();
    assert_eq!(text, expected);
}

#[test]
fn every_mistake_has_its_place_and_remedy() {
    let cases: &[(&str, (usize, usize), &[&str])] = &[
        // syntax
        ("[data\n", (1, 6), &["unclosed table"]),
        ("a = 1\na = 2\n", (2, 1), &["duplicate key"]),
        // sections
        ("[dat]\nsize = 3\n", (1, 2), &["unknown section `dat`", "did you mean `data`", "[[step]]"]),
        ("[step]\nmethod = \"lowrank\"\n", (1, 2), &["[[step]], with two brackets"]),
        ("step = [3]\n", (1, 8), &["a step is a table"]),
        // [data]
        ("[data]\nsizes = 3\n", (2, 1), &["unknown key `sizes`", "`size`", "`crop`", "`mean`"]),
        ("[data]\nsize = \"big\"\n", (2, 8), &["a number of pixels, or [height, width]"]),
        ("[data]\nsize = 0\n", (2, 8), &["`size`", "at least 1"]),
        ("[data]\nmean = 120\nstd = 1\n", (2, 8), &["divide by 255"]),
        ("[data]\nmean = 0.5\nstd = [0.2, 0.0, 0.2]\n", (3, 7), &["positive"]),
        ("[data]\ncrop = 3\n", (2, 8), &["it needs `size`"]),
        ("[data]\nchannels = \"rbg\"\n", (2, 12), &["rgb", "bgr", "gray"]),
        ("[data]\naugment = { flop = true }\n", (2, 13), &["unknown key `flop`", "flip"]),
        ("[data]\nvalidation = 1.5\n", (2, 14), &["between 0 and 1"]),
        // [train]
        ("[train]\nepochs = -1\n", (2, 10), &["-1"]),
        ("[train]\nbatch = 0\n", (2, 9), &["batch", "at least 1"]),
        ("[train]\nlearning_rate = -0.5\n", (2, 17), &["not negative"]),
        ("[train]\noptimizer = \"adam\"\nmomentum = 0.5\n", (3, 12), &["belongs to the optimizer sgd"]),
        ("[train]\noptimizer = \"sdg\"\n", (2, 13), &["sgd", "adam", "adamw"]),
        ("[train]\nlr = 0.1\n", (2, 1), &["unknown key `lr`", "learning_rate"]),
        // [[step]]
        ("[[step]]\nratio = 0.5\n", (1, 1), &["needs a `method`", "prune.weights", "quant.kmeans"]),
        (
            "[[step]]\nmethod = \"prune.weigths\"\n",
            (2, 10),
            &["no method is called", "did you mean `prune.weights`", "quant.int8"],
        ),
        ("[[step]]\nmethod = 3\n", (2, 10), &["expected a string"]),
        ("[[step]]\nmethod = \"prune.weights\"\nratio = 1.5\n", (3, 9), &["`ratio`", "1.5", "cnn methods"]),
        ("[[step]]\nmethod = \"prune.weights\"\nratio = \"half\"\n", (3, 9), &["`ratio`", "half"]),
        ("[[step]]\nmethod = \"prune.weights\"\nratio = nan\n", (3, 9), &["finite"]),
        ("[[step]]\nmethod = \"prune.weights\"\nscope = \"all\"\n", (3, 9), &["layer", "global"]),
        ("[[step]]\nmethod = \"quant.kmeans\"\nbits = 99\n", (3, 8), &["`bits`", "1 to 8"]),
        ("[[step]]\nmethod = \"quant.kmeans\"\nbits = 2.5\n", (3, 8), &["`bits`", "2.5"]),
        ("[[step]]\nmethod = \"quant.kmeans\"\nbits = 2024-01-01\n", (3, 8), &["date"]),
        ("[[step]]\nmethod = \"quant.kmeans\"\nonly = \"conv\"\n", (3, 8), &["sequence"]),
        ("[[step]]\nmethod = \"quant.kmeans\"\nlayers = {}\n", (3, 1), &["`only` and `skip`"]),
        ("[[step]]\nmethod = \"distill.teacher\"\nonly = [\"a\"]\n", (3, 1), &["takes no `only`", "alpha"]),
        (
            "[[step]]\nmethod = \"quant.kmeans\"\nfinetune = { epoch = 1 }\n",
            (3, 14),
            &["unknown key `epoch`", "epochs"],
        ),
        (
            "[[step]]\nmethod = \"quant.kmeans\"\nfinetune = { epochs = 1, batch = 0 }\n",
            (3, 34),
            &["batch", "at least 1"],
        ),
    ];
    for (text, place, parts) in cases {
        let (line, column, said) = wrong(text);
        assert_eq!((line, column), *place, "{text}\n{said}");
        assert!(said.contains('^'), "{said}");
        for part in *parts {
            assert!(said.contains(part), "{text}\nno `{part}` in:\n{said}");
        }
    }
}

#[test]
fn the_first_mistake_in_the_file_is_reported() {
    let (line, ..) = wrong("[[step]]\nmethod = \"quant.kmeans\"\nzzz = 1\nbits = 99\n");
    assert_eq!(line, 3);
}

#[test]
fn patterns_that_match_nothing_list_the_layers() {
    let recipe = parse("[[step]]\nmethod = \"quant.kmeans\"\nonly = [\"conv*\", \"dense*\"]\n").unwrap();
    let graph = registry().build_network("lenet5", &NetworkOptions::default()).unwrap();
    let error = recipe.check_step(0, &graph).unwrap_err().to_string();
    assert!(error.starts_with("r.toml:3:18: no layer's name matches `dense*`"), "{error}");
    assert!(error.contains("layers with weights are: conv1, conv2, fc1, fc2"), "{error}");
    assert!(recipe.check_step(1, &graph).is_ok());
}

#[test]
fn paths_are_relative_to_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    std::fs::write(&path, "[data]\nlabels = \"labels.txt\"\nclasses = \"names.txt\"\n").unwrap();
    let recipe = Recipe::load(&path, &registry()).unwrap();
    assert_eq!(recipe.data.labels, Some(folder.path().join("labels.txt")));
    let missing = Recipe::load(&folder.path().join("none.toml"), &registry()).unwrap_err();
    assert!(missing.to_string().contains("none.toml"));
}

#[test]
fn nothing_makes_the_parser_panic() {
    let whole = WHOLE.as_bytes();
    for cut in 0..whole.len() {
        let _ = parse(&String::from_utf8_lossy(&whole[..cut]));
    }
    for at in 0..whole.len() {
        for other in [b'"', b'[', b'\n', b'9', 0xff] {
            let mut bytes = whole.to_vec();
            bytes[at] = other;
            let _ = parse(&String::from_utf8_lossy(&bytes)).map_err(|e| e.to_string());
        }
    }
}

#[test]
fn the_repository_s_recipes_are_recipes() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        Recipe::load(&file, &registry()).unwrap_or_else(|e| panic!("{e}"));
        count += 1;
    }
    assert!(count > 0);
}
