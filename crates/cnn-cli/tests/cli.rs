//! The program, as a user runs it, on a small network and small pictures.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

mod common;

use common::{Place, cnn, command, done, fails, names, trained};
use std::process::Stdio;
use std::time::{Duration, Instant};

const RECIPE: &str = r#"
[data]
validation = 0.2

[train]
batch = 10
learning_rate = 0.02

[[step]]
method = "prune.weights"
ratio = 0.5
rounds = 1
epochs = 0
final_epochs = 0
finetune = { epochs = 2 }

[[step]]
method = "quant.kmeans"
bits = 5
epochs = 1
"#;

#[test]
fn from_training_to_a_compressed_network() {
    let place = Place::new();
    let (images, recipe) = (place.images(), place.write("r.toml", RECIPE));
    let net = trained(&place, &images);
    assert!(!place.path("net.cnn.checkpoint").exists());

    let scores = done(&["eval", &net, "--data", &images, "--json"]).json();
    assert_eq!(scores["images"], 24);
    assert!(scores["top1"].as_f64().unwrap() > 0.8, "{scores}");
    assert_eq!(scores["split"], "test");
    // normalisation comes from the file
    assert_eq!(scores["preprocess"]["mean"].as_array().unwrap().len(), 3);
    let other = done(&["eval", &net, "--data", &images, "--mean", "0", "--std", "1", "--json"]).json();
    assert_eq!(other["preprocess"]["mean"][0], 0.0);

    let layers = done(&["inspect", &net, "--json"]).json();
    let of = |key: &str| layers[key].as_u64().unwrap();
    let sum = |key: &str| -> u64 {
        layers["layers"].as_array().unwrap().iter().map(|l| l[key].as_u64().unwrap()).sum()
    };
    assert_eq!((of("params"), of("macs")), (sum("params"), sum("macs")));
    assert!(sum("bytes") < of("native_bytes") && sum("bytes") * 10 > of("native_bytes") * 9);
    assert!(of("native_bytes") < of("bytes"), "the file has names");

    let small = place.text("small.cnn");
    let line = ["compress", &net, "--recipe", &recipe, "--data", &images, "-o", &small];
    let report = done(&[&line[..], &["--json"]].concat()).json();
    assert_eq!(names(place.path("").as_path()), ["images", "net.cnn", "r.toml", "small.cnn"]);
    let bytes = std::fs::metadata(&small).unwrap().len();
    assert_eq!(report["after"]["bytes"], bytes);
    assert_eq!(report["before"]["bytes"], std::fs::metadata(&net).unwrap().len());
    assert!(bytes * 4 < report["before"]["bytes"].as_u64().unwrap(), "{report}");
    assert!(report["after"]["nonzeros"].as_u64() < report["before"]["nonzeros"].as_u64());
    assert!(report["after"]["scores"]["top1"].as_f64().unwrap() > 0.6, "{report}");
    assert!(report["read_back"].as_f64().unwrap() < 1e-5 && report["speedup"].as_f64().unwrap() > 0.0);
    let again = done(&["eval", &small, "--data", &images, "--json"]).json();
    assert_eq!(again["correct"], report["after"]["scores"]["correct"]);

    // the same work gives the same bytes
    let twin = place.text("twin.cnn");
    done(&["compress", &net, "--recipe", &recipe, "--data", &images, "-o", &twin, "--threads", "1"]);
    assert_eq!(std::fs::read(&small).unwrap(), std::fs::read(&twin).unwrap());

    // what was packed is not compressed again
    fails(
        &["compress", &small, "--recipe", &recipe, "--data", &images, "-o", &twin],
        &["is packed already", "quant.codebook"],
    );
}

#[test]
fn onnx_in_and_out() {
    let place = Place::new();
    let (images, recipe) = (place.images(), place.write("r.toml", RECIPE));
    let net = trained(&place, &images);
    let (onnx, back) = (place.text("net.onnx"), place.text("back.cnn"));
    done(&["convert", &net, &onnx]);
    done(&["convert", &onnx, &back]);
    let same = done(&["verify", &net, &back, "--data", &images, "--json"]).json();
    assert!(same["same"].as_bool().unwrap() && same["same_choice"] == 24, "{same}");
    // found by content, whatever the name
    std::fs::copy(&onnx, place.path("odd.cnn")).unwrap();
    let odd = done(&["inspect", &place.text("odd.cnn"), "--json"]).json();
    assert_eq!(odd["form"], "onnx");

    let small = place.text("small.onnx");
    let said = done(&["compress", &onnx, "--recipe", &recipe, "--data", &images, "-o", &small]);
    assert!(
        said.err.contains("ONNX has no standard form") && said.err.contains("-o NAME.cnn"),
        "{}",
        said.err
    );
    assert!(said.out.contains("native form, bytes"), "{}", said.out);
    let scores = done(&["eval", &small, "--data", &images, "--json"]).json();
    assert!(scores["top1"].as_f64().unwrap() > 0.6, "{scores}");

    // pruned weights alone are small in both forms, as far as layers as small as these can be
    let recipe =
        place.write("pruned.toml", RECIPE.split("[[step]]").take(2).collect::<Vec<_>>().join("[[step]]"));
    let pruned = place.text("pruned.onnx");
    let arguments = ["compress", &onnx, "--recipe", &recipe, "--data", &images, "-o", &pruned, "--json"];
    let said = done(&arguments);
    assert!(!said.err.contains("no standard form"), "{}", said.err);
    let length = |path: &str| std::fs::metadata(path).unwrap().len() as f64;
    assert!(length(&pruned) < 0.9 * length(&onnx), "{} of {}", length(&pruned), length(&onnx));

    // layer by layer, in the native form, where compressed layers are what they are
    let native = place.text("small.cnn");
    done(&["compress", &onnx, "--recipe", &recipe, "--data", &images, "-o", &native]);
    let layers = cnn(&["verify", &onnx, &native, "--data", &images, "--layers", "--json"]).json();
    let rows = layers["layers"].as_array().unwrap();
    assert!(!rows.is_empty() && rows.iter().all(|r| r["sqnr"].as_f64().unwrap() > 0.0), "{layers}");
    let said = cnn(&["verify", &onnx, &native, "--data", &images, "--layers"]).out;
    assert!(said.contains("layer alone") && said.contains("SQNR"), "{said}");

    // a compressed network is another one: code 3
    let differs = cnn(&["verify", &onnx, &small, "--data", &images, "--json"]);
    assert_eq!(differs.code, Some(3), "{}", differs.err);
    assert_eq!(differs.json()["same"], false);
    assert_eq!(cnn(&["verify", &onnx, &small, "--data", &images, "--tolerance", "9"]).code, Some(0));
}

#[test]
fn listings() {
    let methods = done(&["methods"]).out;
    assert!(methods.contains("prune.weights") && methods.contains("quant.int8"), "{methods}");
    let one = done(&["methods", "prune.weights"]).out;
    for part in
        ["method = \"prune.weights\"", "ratio", "0.8", "layer, global, isomorphic", "only", "finetune"]
    {
        assert!(one.contains(part), "no `{part}` in {one}");
    }
    let teacher = done(&["methods", "distill.teacher"]).out;
    assert!(teacher.contains("temperature") && !teacher.contains("only"), "{teacher}");
    fails(&["methods", "prune.weigths"], &["did you mean `prune.weights`"]);
    assert!(done(&["networks"]).out.contains("resnet20"));
    let costs = done(&["networks", "resnet20", "--json"]).json();
    assert_eq!(costs["params"], 269_722);
    fails(&["networks", "resnet21"], &["did you mean `resnet20`"]);
    assert!(done(&["completions", "bash"]).out.contains("complete"));
    assert_eq!(cnn(&["methods", "--wrong"]).code, Some(2));
}

#[test]
fn bench_gives_times() {
    let place = Place::new();
    let images = place.images();
    let net = trained(&place, &images);
    let times = done(&["bench", &net, "--runs", "5", "--batch", "2", "--threads", "1", "--json"]).json();
    assert_eq!((times["runs"].as_u64(), times["threads"].as_u64()), (Some(5), Some(1)));
    assert!(times["median_ms"].as_f64().unwrap() > 0.0);
    assert!(times["one_thread"].is_null() && times["profile"].is_null());
    let both = done(&["bench", &net, "--runs", "3", "--threads", "2", "--profile", "--json"]).json();
    assert_eq!((both["threads"].as_u64(), both["executor"].as_str()), (Some(2), Some("session")));
    assert_eq!(both["one_thread"]["runs"].as_u64(), Some(3));
    let rows = both["profile"]["rows"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["flops"].as_u64() > Some(0)) && rows.iter().all(|r| r["node"].is_string()));
    let text = done(&["bench", &net, "--runs", "3", "--threads", "1", "--profile"]).out;
    assert!(
        text.contains("GFLOP/s")
            && text.lines().count() > rows.len()
            && !text.contains("on one thread: median")
    );
    let dense = done(&["bench", &net, "--runs", "3", "--threads", "1", "--zeros"]).out;
    assert!(dense.contains("No layer is stored without its zeros"), "{dense}");
    let recipe = place.write(
        "r.toml",
        "[[step]]\nmethod = \"prune.weights\"\nratio = 0.95\nrounds = 1\nepochs = 0\nfinal_epochs = 0\n",
    );
    let small = place.text("small.cnn");
    done(&["compress", &net, "--recipe", &recipe, "--data", &images, "-o", &small]);
    let zeros = done(&["bench", &small, "--runs", "3", "--threads", "1", "--zeros", "--json"]).json();
    let zeros: Vec<&str> = zeros["zeros"].as_array().unwrap().iter().filter_map(|z| z.as_str()).collect();
    assert!(
        !zeros.is_empty() && zeros.iter().all(|z| z.contains("% zeros") && z.contains("break-even")),
        "{zeros:?}"
    );
    fails(&["bench", &net, "--runs", "0"], &["--runs"]);
    fails(&["bench", &net, "--threads", "0"], &["--threads 0"]);
    fails(&["bench", &net, "--batch", "99999999999999"], &["too large"]);
}

#[test]
fn a_dry_run_needs_no_images_and_writes_nothing() {
    let place = Place::new();
    let images = place.images();
    let net = trained(&place, &images);
    let before = names(place.path("").as_path());
    let dry = |recipe: &str| {
        cnn(&["compress", &net, "--dry-run", "--recipe", &place.write("r.toml", recipe), "--json"])
    };
    let report = dry(RECIPE).json();
    assert_eq!(report["dry_run"], true);
    assert!(report["after"]["native_bytes"].as_u64() < report["before"]["native_bytes"].as_u64());

    // a layer that an earlier step makes may be named, and one that is not there is an error
    let steps = |name: &str| {
        format!(
            "[[step]]\nmethod = \"lowrank.tucker2\"\nrank_ratios = [0.5, 0.5]\nonly = \
                [\"{name}\"]\n\n[[step]]\nmethod = \
             \"quant.kmeans\"\nonly = [\"{name}*core*\", \"zzz\"]\n"
        )
    };
    let said = dry("[[step]]\nmethod = \"quant.kmeans\"\nonly = [\"zzz\"]\n");
    assert!(said.err.contains("r.toml:3:9: no layer's name matches `zzz`"), "{}", said.err);
    assert!(said.json()["error"].as_str().unwrap().contains("zzz"));
    let conv = done(&["inspect", &net, "--json"]).json()["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|l| l["kind"] == "conv2d")
        .nth(3)
        .unwrap()["name"]
        .as_str()
        .unwrap()
        .to_string();
    let said = dry(&steps(&conv));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("r.toml:8:") && said.err.contains("no layer's name matches"), "{}", said.err);
    // what fails within a step is shown at the step
    let said = dry("[[step]]\nmethod = \"distill.soft_targets\"\nstudent = \"resnet110\"\n");
    assert!(said.err.contains("r.toml:2:10: step 1") && said.err.contains("resnet110"), "{}", said.err);
    let said = dry("[data]\nsize = 8\n");
    assert!(said.err.contains("no [[step]]"), "{}", said.err);
    assert_eq!(names(place.path("").as_path()), [&before[..], &["r.toml".to_string()]].concat());
}

#[test]
fn wrong_files_are_named() {
    let place = Place::new();
    let images = place.images();
    let net = trained(&place, &images);
    let bytes = std::fs::read(&net).unwrap();

    fails(&["inspect", &place.text("none.cnn")], &["none.cnn", "No such file"]);
    fails(&["inspect", &place.write("empty.cnn", "")], &["the file is empty"]);
    fails(&["inspect", &place.write("cut.cnn", &bytes[..bytes.len() / 2])], &["cut.cnn", "damaged"]);
    fails(&["inspect", &place.write("short.cnn", &bytes[..4])], &["short.cnn"]);
    let mut flipped = bytes.clone();
    flipped[100] ^= 1;
    fails(&["eval", &place.write("flip.cnn", &flipped), "--data", &images], &["checksum"]);
    fails(&["inspect", &place.write("text.onnx", "# a readme\n")], &["text.onnx"]);
    fails(&["inspect", &images], &["images"]);
    done(&["convert", &net, &place.text("whole.onnx")]);
    let onnx = std::fs::read(place.path("whole.onnx")).unwrap();
    fails(&["inspect", &place.write("cut.onnx", &onnx[..onnx.len() / 2])], &["cut.onnx"]);

    fails(&["convert", &net, &place.text("net.pt")], &["net.pt", ".onnx or .cnn"]);
    fails(&["convert", &net, &place.text("none/a.onnx")], &["none/a.onnx"]);
    std::fs::create_dir(place.path("dir.onnx")).unwrap();
    fails(&["convert", &net, &place.text("dir.onnx")], &["folder"]);
}

#[test]
fn wrong_images_are_named() {
    let place = Place::new();
    let images = place.images();
    let net = trained(&place, &images);
    fails(&["eval", &net, "--data", &place.text("nowhere")], &["nowhere"]);
    std::fs::create_dir(place.path("void")).unwrap();
    fails(&["eval", &net, "--data", &place.text("void")], &["void"]);
    fails(&["eval", &net, "--data", &images, "--size", "16"], &["8 x 8", "16 x 16"]);
    fails(
        &["eval", &net, "--data", &images, "--split", "validation"],
        &["no validation images", "training, test"],
    );
    fails(&["eval", &net, "--data", &images, "--mean", "0.5"], &["--mean", "`std`"]);
    fails(&["eval", &net, "--data", &images, "--channels", "gray"], &["channels"]);
    // another number of classes
    std::fs::create_dir_all(place.path("images/test/more")).unwrap();
    std::fs::create_dir_all(place.path("images/train/more")).unwrap();
    for part in ["train", "test"] {
        let from = place.path(&format!("images/{part}/flat/00.png"));
        std::fs::copy(from, place.path(&format!("images/{part}/more/a.png"))).unwrap();
    }
    fails(&["eval", &net, "--data", &images], &["3 outputs", "4 classes", "--class-names"]);

    // the normalisation of a network without it is not guessed
    let plain = place.text("plain.cnn");
    let session = cnn_cli::session::Session::new(cnn_cli::session::Voice::Quiet);
    let mut graph = cnn_core::model_file::load(std::path::Path::new(&net), &session.registry).unwrap();
    graph.preprocess = None;
    cnn_core::model_file::save(&graph, std::path::Path::new(&plain)).unwrap();
    std::fs::remove_dir_all(place.path("images/test/more")).unwrap();
    std::fs::remove_dir_all(place.path("images/train/more")).unwrap();
    fails(&["eval", &plain, "--data", &images], &["not known", "--mean 0 --std 1"]);
    done(&["eval", &plain, "--data", &images, "--mean", "0.3", "--std", "0.2"]);
    let recipe = place.write("d.toml", "[data]\nmean = 0.3\nstd = 0.2\n");
    done(&["eval", &plain, "--data", &images, "--recipe", &recipe]);

    // weights that are not numbers
    use cnn_core::layers::Conv2d;
    let name = graph.names_of::<Conv2d>()[1].clone();
    let conv = graph.layer_mut::<Conv2d>(&name).unwrap().unwrap();
    let mut weight = conv.weight().base().clone();
    weight[[0, 0, 0, 0]] = f32::NAN;
    conv.weight_mut().set_base(weight);
    cnn_core::model_file::save(&graph, std::path::Path::new(&plain)).unwrap();
    fails(&["eval", &plain, "--data", &images], &["plain.cnn", "not finite"]);
    let seen = done(&["inspect", &plain]);
    assert!(seen.err.contains("not finite"), "{}", seen.err);
    let said = cnn(&["verify", &net, &plain, "--data", &images]);
    assert_eq!(said.code, Some(3), "a NaN is never the same: {}", said.err);
}

#[test]
fn absurd_settings_are_refused() {
    let place = Place::new();
    let images = place.images();
    let net = trained(&place, &images);
    let out = place.text("out.cnn");
    let compress = |recipe: &str, parts: &[&str]| {
        let recipe = place.write("r.toml", recipe);
        fails(&["compress", &net, "--recipe", &recipe, "--data", &images, "-o", &out], parts)
    };
    compress("[[step]]\nmethod = \"prune.weights\"\nratio = 1.0\n", &["r.toml:3:9", "ratio"]);
    compress("[[step]]\nmethod = \"quant.kmeans\"\nbits = 0\n", &["r.toml:3:8", "1 to 8"]);
    // a rate at which training diverges: an error, and nothing is written
    let wild =
        "[[step]]\nmethod = \"quant.kmeans\"\nepochs = 0\nfinetune = { epochs = 3, learning_rate = 1e30 }\n";
    compress(wild, &["r.toml:2:10: step 1", "not finite"]);
    assert!(!place.path("out.cnn").exists());
    let train = ["train", "resnet20", "--width", "0.25", "--data", &images, "-o", &out];
    fails(&[&train[..], &["--batch", "0"]].concat(), &["batch"]);
    // what a failed compression left is not taken for a training's
    fails(&[&train[..], &["--epochs", "1"]].concat(), &["out.cnn.checkpoint", "belongs to `cnn compress`"]);
    std::fs::remove_dir_all(place.path("out.cnn.checkpoint")).unwrap();
    fails(&[&train[..], &["--input", "2,8,8"]].concat(), &["[2, 8, 8]", "[3, 8, 8]"]);
    fails(&[&train[..], &["--classes", "2"]].concat(), &["--classes 2", "3 classes"]);
    fails(&["train", "resnet20", "--data", &images, "-o", &place.text("no/a.cnn")], &["no/a.cnn"]);
    fails(&["networks", "resnet20", "--width", "0"], &["width"]);
}

/// Starts the program, waits until it wrote a file, sends it SIGINT, and returns its code.
#[cfg(unix)]
#[allow(clippy::unwrap_used)] // for tests
fn interrupted(arguments: &[&str], once: &std::path::Path) -> Option<i32> {
    let mut child = command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !once.exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was written");
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was interrupted");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("goes on from") || said.contains("interrupted"), "{said}");
    output.status.code()
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on_to_the_same_bytes() {
    let place = Place::new();
    let images = place.images();
    let (a, b) = (place.text("a.cnn"), place.text("b.cnn"));
    let base = ["train", "resnet20", "--width", "0.25", "--data", &images, "--batch", "10"];
    let whole = [&base[..], &["--epochs", "40", "-o", &a]].concat();
    let cut = [&base[..], &["--epochs", "40", "-o", &b]].concat();
    let other = [&base[..], &["--epochs", "41", "-o", &b]].concat();
    done(&whole);
    assert_eq!(interrupted(&cut, &place.path("b.cnn.checkpoint")), Some(130));
    assert!(!place.path("b.cnn").exists() && place.path("b.cnn.checkpoint").exists());
    // the checkpoint is no network, and other settings do not go on from it
    fails(&["inspect", &place.text("b.cnn.checkpoint")], &["checkpoint of unfinished work"]);
    fails(&other, &["--restart"]);
    let said = done(&cut);
    assert!(said.err.contains("going on from"), "{}", said.err);
    assert!(!place.path("b.cnn.checkpoint").exists());
    assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
}

#[cfg(unix)]
#[test]
fn an_interrupted_compression_goes_on_to_the_same_bytes() {
    let place = Place::new();
    let images = place.images();
    let net = trained(&place, &images);
    // the teacher is not in the network, and has to be there again after the interruption
    let text =
        format!("[[step]]\nmethod = \"distill.teacher\"\n{}", RECIPE.replace("epochs = 2", "epochs = 30"));
    let recipe = place.write("r.toml", &text);
    let (a, b) = (place.text("a.cnn"), place.text("b.cnn"));
    let base = ["compress", &net, "--recipe", &recipe, "--data", &images];
    let (whole, cut) = ([&base[..], &["-o", &a]].concat(), [&base[..], &["-o", &b]].concat());
    done(&whole);
    let folder = place.path("b.cnn.checkpoint");
    // within the fine-tuning after the second step
    assert_eq!(interrupted(&cut, &folder.join("step-2-training.checkpoint")), Some(130));
    assert!(!place.path("b.cnn").exists());
    assert!(names(&folder).contains(&"state.json".to_string()), "{:?}", names(&folder));

    place.write("r.toml", text.replace("bits = 5", "bits = 4"));
    fails(&cut, &["the steps of the recipe changed since", "--restart"]);
    // remarks change nothing
    place.write("r.toml", format!("# again\n{text}"));
    let said = done(&cut);
    assert!(said.err.contains("going on from") && said.err.contains("step 2 is applied"), "{}", said.err);
    assert!(!folder.exists());
    assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
}
