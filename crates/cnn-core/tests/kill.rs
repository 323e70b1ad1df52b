//! A training that is killed, really, at any moment, and started again until it is done.

#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::layers::{Activation, BatchNorm, Conv2d, ConvOptions, Dropout, Flatten, GlobalAvgPool, Linear};
use cnn_core::model_file::{deploy_bytes, write_atomically};
use cnn_core::testing::stripes;
use cnn_core::train::{CrossEntropy, EpochRule, Progress, TrainData, TrainSettings, train};
use cnn_core::{Graph, Registry, init::Init};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DIRECTORY: &str = "CNN_KILL_TEST_DIRECTORY";

/// Trains with a checkpoint in the directory and writes the network when done.
fn work(directory: &Path) {
    let mut init = Init::new(1);
    let mut graph = Graph::new(&[1, 12, 12]);
    let options = ConvOptions::default().pad(1);
    graph.push("conv", Conv2d::new(init.he(&[16, 1, 3, 3]).unwrap(), None, options).unwrap()).unwrap();
    graph.push("bn", BatchNorm::new(16)).unwrap();
    graph.push("relu", Activation::relu()).unwrap();
    graph.push("conv2", Conv2d::new(init.he(&[16, 16, 3, 3]).unwrap(), None, options).unwrap()).unwrap();
    graph.push("pool", GlobalAvgPool).unwrap();
    graph.push("flatten", Flatten).unwrap();
    graph.push("dropout", Dropout::new(0.1).unwrap()).unwrap();
    graph.push("fc", Linear::new(init.glorot(&[3, 16]).unwrap(), None).unwrap()).unwrap();
    let (images, validation) =
        (stripes(400, [1, 12, 12], 3, 1).unwrap(), stripes(60, [1, 12, 12], 3, 2).unwrap());
    let (path, registry) = (directory.join("state"), Registry::core());
    let checkpoint = Some((path.as_path(), &registry));
    let data = TrainData { train: &images, validation: Some(&validation), augment: None, checkpoint };
    let epoch_rule = EpochRule::BestOnValidation;
    let settings = TrainSettings { epochs: 12, batch: 16, epoch_rule, ..TrainSettings::default() };
    train(&mut graph, data, &settings, &mut CrossEntropy::default(), &mut [], &Progress::quiet()).unwrap();
    write_atomically(&directory.join("done"), &deploy_bytes(&graph, true).unwrap()).unwrap();
}

/// Does something only as the child of the test below.
#[test]
fn child() {
    if let Ok(directory) = std::env::var(DIRECTORY) {
        work(Path::new(&directory));
    }
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_bits() {
    let whole = tempfile::tempdir().unwrap();
    let start = Instant::now();
    work(whole.path());
    let whole_time = start.elapsed();

    let broken = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for attempt in 1.. {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child"])
            .env(DIRECTORY, broken.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // an eighth of the whole, then longer and longer, so that a slow machine gets there too
        let patience = whole_time.mul_f64(0.13 * f64::from(attempt)) + Duration::from_millis(20);
        let deadline = Instant::now() + patience;
        let mut status = None;
        while status.is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            status = child.try_wait().unwrap();
        }
        if let Some(status) = status {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 60, "it never ends");
    }
    assert!(kills >= 2, "it was done before it could be killed");
    assert_eq!(
        std::fs::read(whole.path().join("done")).unwrap(),
        std::fs::read(broken.path().join("done")).unwrap()
    );
}
