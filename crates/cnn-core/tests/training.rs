//! Training: it learns, it is reproducible to the bit, it can be killed and resumed, and it stops on NaN.
#![allow(clippy::unwrap_used)] // also in the helpers of tests

use cnn_core::data::{Dataset, MemoryDataset};
use cnn_core::layers::*;
use cnn_core::model_file::deploy_bytes;
use cnn_core::testing::stripes;
use cnn_core::train::{
    CrossEntropy, EpochInfo, EpochRule, History, Hook, Optimizer, Progress, Schedule, StepInfo, TrainData,
    TrainSettings, accuracy, evaluate, train,
};
use cnn_core::{
    Augment, Constraint, Decoder, Encoder, Error, Graph, Param, Registry, Result, Role, Tensor, init::Init,
};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// A network with every kind of state: batch norm, dropout, residual.
fn network() -> Graph {
    let mut init = Init::new(5);
    let mut g = Graph::new(&[1, 8, 8]);
    let options = ConvOptions::default().pad(1);
    g.push("conv1", Conv2d::new(init.he(&[8, 1, 3, 3]).unwrap(), None, options).unwrap()).unwrap();
    g.push("bn1", BatchNorm::new(8)).unwrap();
    g.push("relu1", Activation::relu()).unwrap();
    g.push("conv2", Conv2d::new(init.he(&[8, 8, 3, 3]).unwrap(), None, options).unwrap()).unwrap();
    g.add("sum", Add, &["conv2", "relu1"]).unwrap();
    g.push("pool", MaxPool2d { window: Window::square(2) }).unwrap();
    g.push("flatten", Flatten).unwrap();
    g.push("dropout", Dropout::new(0.2).unwrap()).unwrap();
    g.push("fc", Linear::new(init.glorot(&[4, 128]).unwrap(), Some(Tensor::zeros(vec![4]))).unwrap())
        .unwrap();
    g
}

#[derive(Debug)]
struct Noise;

impl Augment for Noise {
    fn apply(&self, image: &mut [f32], _shape: [usize; 3], rng: &mut ChaCha8Rng) {
        image.iter_mut().for_each(|v| *v += rng.random_range(-0.1..0.1));
    }
}

fn settings() -> TrainSettings {
    TrainSettings {
        epochs: 4,
        batch: 32,
        optimizer: Optimizer::sgd(0.02, 1e-4),
        clip: Some(5.0),
        seed: 9,
        ..TrainSettings::default()
    }
}

fn images() -> MemoryDataset {
    stripes(200, [1, 8, 8], 4, 1).unwrap()
}

/// Trains `graph` and returns it; with a checkpoint when a path is given.
fn run(
    mut graph: Graph,
    settings: &TrainSettings,
    checkpoint: Option<(&Path, &Registry)>,
    hooks: &mut [Box<dyn Hook>],
) -> Result<(Graph, History)> {
    let train_set = images();
    let validation = stripes(80, [1, 8, 8], 4, 2).unwrap();
    let data =
        TrainData { train: &train_set, validation: Some(&validation), augment: Some(&Noise), checkpoint };
    let mut objective = CrossEntropy { label_smoothing: 0.1 };
    let history = train(&mut graph, data, settings, &mut objective, hooks, &Progress::quiet())?;
    Ok((graph, history))
}

fn bits(graph: &Graph) -> Vec<u8> {
    deploy_bytes(graph, true).unwrap()
}

#[test]
fn it_learns() {
    for optimizer in [
        Optimizer::sgd(0.02, 1e-4),
        Optimizer::Sgd { rate: 0.02, momentum: 0.9, nesterov: true, weight_decay: 0.0 },
        Optimizer::adamw(0.01, 0.01),
    ] {
        let (_, history) =
            run(network(), &TrainSettings { epochs: 12, optimizer, ..settings() }, None, &mut []).unwrap();
        let last = history.epochs.last().unwrap();
        assert!(last.validation.unwrap() > 0.9, "{optimizer:?}: {history:?}");
        assert!(last.loss < history.epochs[0].loss);
    }
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (graph, history) = run(network(), &settings(), None, &mut []).unwrap();
            let x = Tensor::from_shape_fn(vec![64, 1, 8, 8], |i| (i[0] * 7 + i[2] * 3 + i[3]) as f32 * 0.01);
            (bits(&graph), history, graph.infer(&x).unwrap())
        })
    };
    assert_eq!(with(1), with(2));
    assert_eq!(with(2), with(3));
}

#[test]
fn another_seed_gives_other_bits() {
    let (a, _) = run(network(), &settings(), None, &mut []).unwrap();
    let (b, _) = run(network(), &TrainSettings { seed: 10, ..settings() }, None, &mut []).unwrap();
    assert_ne!(bits(&a), bits(&b));
}

/// Keeps the weights of one layer on a grid that a hook makes finer every epoch: a constraint and a hook with state.
#[derive(Debug, Clone)]
struct Grid {
    step: f32,
}

impl Constraint for Grid {
    fn kind(&self) -> &'static str {
        "test.grid"
    }
    fn materialize(&self, w: &mut Tensor) {
        w.mapv_inplace(|v| (v / self.step).round() * self.step);
    }
    fn pull_back(&mut self, _input: &Tensor, _grad: &mut Tensor) {}
    fn select(&mut self, _axis: usize, _keep: &[usize]) -> Result<()> {
        Ok(())
    }
    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.float(self.step);
        Ok(())
    }
    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

fn decode_grid(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
    Ok(Box::new(Grid { step: from.float()? }))
}

/// Refines the grid, fails on demand, and counts steps across restarts.
#[derive(Debug, Default)]
struct Refine {
    steps: u64,
    fail_at: Option<u64>,
}

impl Hook for Refine {
    fn name(&self) -> &'static str {
        "test.refine"
    }
    fn on_step(&mut self, _graph: &mut Graph, _at: &StepInfo) -> Result<()> {
        self.steps += 1;
        match self.fail_at == Some(self.steps) {
            true => Err(Error::Data("killed".into())),
            false => Ok(()),
        }
    }
    fn on_epoch(&mut self, graph: &mut Graph, _at: &EpochInfo) -> Result<()> {
        let weight = graph.layer_mut::<Conv2d>("conv2")?.unwrap().weight_mut();
        for grid in weight.constraints_mut().iter_mut().filter_map(|c| c.downcast_mut::<Grid>()) {
            grid.step = 0.1 / self.steps as f32;
        }
        weight.refresh();
        Ok(())
    }
    fn state(&self) -> Vec<u8> {
        self.steps.to_le_bytes().to_vec()
    }
    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.steps = u64::from_le_bytes(state.try_into().map_err(|_| Error::Data("state".into()))?);
        Ok(())
    }
}

fn constrained() -> Graph {
    let mut graph = network();
    let layer = graph.layer_mut::<Conv2d>("conv2").unwrap().unwrap();
    layer.weight_mut().constrain(Box::new(Grid { step: 0.1 }));
    graph
}

/// The constrained network must not be deployable; its checkpoint bits are compared after baking.
fn baked(mut graph: Graph) -> Vec<u8> {
    assert!(matches!(deploy_bytes(&graph, true), Err(Error::Node { .. })));
    graph.layer_mut::<Conv2d>("conv2").unwrap().unwrap().weight_mut().bake();
    bits(&graph)
}

#[test]
fn resuming_gives_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::core();
    registry.constraint("test.grid", decode_grid);
    for epoch_rule in [EpochRule::LastEpoch, EpochRule::BestOnValidation] {
        for optimizer in [Optimizer::sgd(0.02, 1e-4), Optimizer::adamw(0.003, 0.01)] {
            let settings = TrainSettings { epoch_rule, optimizer, ..settings() };
            let (whole, history) =
                run(constrained(), &settings, None, &mut [Box::new(Refine::default())]).unwrap();
            // 7 steps an epoch: killed in the first, second and last epoch
            for fail_at in [3, 8, 25] {
                let path = dir.path().join(format!("{epoch_rule:?}{fail_at}{}", optimizer.rate()));
                let at = Some((path.as_path(), &registry));
                let killed = Refine { steps: 0, fail_at: Some(fail_at) };
                let error = run(constrained(), &settings, at, &mut [Box::new(killed)]).unwrap_err();
                assert!(error.to_string().contains("killed"), "{error}");
                assert_eq!(path.exists(), fail_at > 7);
                let (resumed, again) =
                    run(constrained(), &settings, at, &mut [Box::new(Refine::default())]).unwrap();
                assert_eq!(history, again);
                assert_eq!(baked(whole.clone()), baked(resumed));
                // a finished training is not done again
                let (finished, _) =
                    run(constrained(), &settings, at, &mut [Box::new(Refine::default())]).unwrap();
                assert_eq!(baked(whole.clone()), baked(finished));
            }
        }
    }
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let registry = Registry::core();
    let at = Some((path.as_path(), &registry));
    run(network(), &TrainSettings { epochs: 1, ..settings() }, at, &mut []).unwrap();
    let error =
        run(network(), &TrainSettings { epochs: 2, ..settings() }, at, &mut []).unwrap_err().to_string();
    assert!(error.contains("other settings") && error.contains("delete"), "{error}");
    let error =
        run(network(), &TrainSettings { epochs: 1, ..settings() }, at, &mut [Box::new(Refine::default())]);
    assert!(error.unwrap_err().to_string().contains("hooks"));
    // a deployable model is not a checkpoint, and the other way round
    let error = cnn_core::model_file::load(&path, &registry).unwrap_err().to_string();
    assert!(error.contains("checkpoint"), "{error}");
    std::fs::write(&path, bits(&network())).unwrap();
    assert!(run(network(), &settings(), at, &mut []).unwrap_err().to_string().contains("deployable"));
    std::fs::write(&path, b"CNN").unwrap();
    assert!(run(network(), &settings(), at, &mut []).is_err());
}

/// Puts NaN into a weight after some steps.
#[derive(Debug)]
struct Poison(usize);

impl Hook for Poison {
    fn name(&self) -> &'static str {
        "test.poison"
    }
    fn on_step(&mut self, graph: &mut Graph, at: &StepInfo) -> Result<()> {
        if at.epoch == 1 && at.step == self.0 {
            let weight = graph.layer_mut::<Conv2d>("conv2")?.unwrap().weight_mut();
            let mut base = weight.base().clone();
            base[[0, 0, 0, 0]] = f32::NAN;
            weight.set_base(base);
        }
        Ok(())
    }
}

#[test]
fn nan_stops_with_the_layer_and_keeps_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::core();
    // in the middle of the epoch the loss shows it; in its last step, the check before the checkpoint is written
    for (step, what) in [(2, "loss"), (6, "parameter")] {
        let path = dir.path().join(what);
        let at = Some((path.as_path(), &registry));
        let mut graph = network();
        let before = bits(&graph);
        let train_set = images();
        let data = TrainData { train: &train_set, validation: None, augment: None, checkpoint: at };
        let mut hooks: [Box<dyn Hook>; 1] = [Box::new(Poison(step))];
        let mut objective = CrossEntropy::default();
        let settings = TrainSettings { clip: None, ..settings() };
        let error =
            train(&mut graph, data, &settings, &mut objective, &mut hooks, &Progress::quiet()).unwrap_err();
        let Error::NonFinite { what: found, node, epoch, rescue, .. } = &error else { panic!("{error}") };
        assert_eq!((*found, node.as_str(), *epoch), (what, "conv2", 1));
        assert!(rescue.contains("epoch 0"), "{rescue}");
        assert_eq!(bits(&graph), before, "the graph is as it was");
        // the checkpoint of epoch 0 is good: training goes on from it
        let mut hooks: [Box<dyn Hook>; 1] = [Box::new(Poison(999))];
        train(&mut graph, data, &settings, &mut objective, &mut hooks, &Progress::quiet()).unwrap();
    }
}

#[test]
fn bad_input_is_refused() {
    let check = |settings: TrainSettings, says: &str| {
        let error = run(network(), &settings, None, &mut []).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(TrainSettings { batch: 0, ..settings() }, "batch");
    check(TrainSettings { clip: Some(f32::NAN), ..settings() }, "clip");
    let falling = Schedule::Step { at: vec![1], factor: f32::NAN };
    check(TrainSettings { schedule: falling, ..settings() }, "schedule");
    check(TrainSettings { optimizer: Optimizer::sgd(f32::INFINITY, 0.0), ..settings() }, "optimizer");
    let empty = MemoryDataset::new(Tensor::zeros(vec![0, 1, 8, 8]), vec![], 4).unwrap();
    let wrong = stripes(8, [3, 8, 8], 4, 0).unwrap();
    let many = stripes(8, [1, 8, 8], 5, 0).unwrap();
    for (data, says) in [(&empty, "no images"), (&wrong, "1, 8, 8"), (&many, "label 4")] {
        let data =
            TrainData { train: data as &dyn Dataset, validation: None, augment: None, checkpoint: None };
        let mut objective = CrossEntropy::default();
        let error = train(&mut network(), data, &settings(), &mut objective, &mut [], &Progress::quiet())
            .unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(evaluate(&network(), &empty).is_err());
    let mut graph = network();
    graph.push("alone", Softmax).unwrap();
    let best = TrainSettings { epoch_rule: EpochRule::BestOnValidation, ..settings() };
    let data = images();
    let data = TrainData { train: &data, validation: None, augment: None, checkpoint: None };
    let error = train(&mut graph, data, &best, &mut CrossEntropy::default(), &mut [], &Progress::quiet());
    assert!(error.unwrap_err().to_string().contains("validation"));
}

/// A learned scale: its gradient is large, that of the weight is small.
#[derive(Debug, Clone)]
struct Scale(Param);

impl Constraint for Scale {
    fn kind(&self) -> &'static str {
        "test.scale"
    }
    fn materialize(&self, w: &mut Tensor) {
        let scale = self.0.value()[[0]];
        w.mapv_inplace(|v| v * scale);
    }
    fn pull_back(&mut self, input: &Tensor, grad: &mut Tensor) {
        let dot = 1000.0 * (input * &*grad).sum();
        self.0.write_grad(|g| g[0] = dot);
        grad.fill(0.0);
    }
    fn params_mut(&mut self) -> Vec<&mut Param> {
        vec![&mut self.0]
    }
    fn select(&mut self, _axis: usize, _keep: &[usize]) -> Result<()> {
        Ok(())
    }
    fn encode(&self, out: &mut Encoder) -> Result<()> {
        out.param(&self.0)
    }
    fn clone_box(&self) -> Box<dyn Constraint> {
        Box::new(self.clone())
    }
}

#[test]
fn parameters_of_constraints_are_clipped_too() {
    let mut graph = network();
    let scale = Param::new(Role::Constraint, Tensor::ones(vec![1]));
    graph.layer_mut::<Conv2d>("conv2").unwrap().unwrap().weight_mut().constrain(Box::new(Scale(scale)));
    let settings = TrainSettings {
        epochs: 1,
        batch: 200,
        clip: Some(1e-3),
        optimizer: Optimizer::sgd(1.0, 0.0),
        schedule: Schedule::Constant,
        ..settings()
    };
    let (trained, _) = run(graph, &settings, None, &mut []).unwrap();
    let weight = trained.layer::<Conv2d>("conv2").unwrap().unwrap().weight();
    let moved = weight.constraints()[0].downcast_ref::<Scale>().unwrap().0.value()[[0]] - 1.0;
    assert!(moved != 0.0 && moved.abs() <= 1.1e-3, "{moved}");
}

/// Forgets everything after each epoch.
#[derive(Debug)]
struct Destroy;

impl Hook for Destroy {
    fn name(&self) -> &'static str {
        "test.destroy"
    }
    fn on_epoch(&mut self, graph: &mut Graph, _at: &EpochInfo) -> Result<()> {
        graph.layer_mut::<Linear>("fc")?.unwrap().weight_mut().set_base(Tensor::zeros(vec![4, 128]));
        Ok(())
    }
}

#[test]
fn the_best_network_is_the_one_that_was_measured() {
    let settings = TrainSettings { epoch_rule: EpochRule::BestOnValidation, ..settings() };
    let (graph, history) = run(network(), &settings, None, &mut [Box::new(Destroy)]).unwrap();
    let best = history.epochs.iter().filter_map(|e| e.validation).fold(0.0, f64::max);
    assert!(best > 0.3, "{history:?}");
    assert_eq!(accuracy(&graph, &stripes(80, [1, 8, 8], 4, 2).unwrap()).unwrap(), best);
}

#[test]
fn a_checkpoint_of_another_network_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, registry) = (dir.path().join("state"), Registry::core());
    let at = Some((path.as_path(), &registry));
    run(network(), &TrainSettings { epochs: 1, ..settings() }, at, &mut []).unwrap();
    let mut other = network();
    other.layer_mut::<Linear>("fc").unwrap().unwrap().bias_mut().unwrap().set_base(Tensor::ones(vec![4]));
    let error = run(other, &TrainSettings { epochs: 1, ..settings() }, at, &mut []).unwrap_err().to_string();
    assert!(error.contains("network"), "{error}");
}

fn decode_scale(from: &mut Decoder<'_>) -> Result<Box<dyn Constraint>> {
    Ok(Box::new(Scale(from.param(Role::Constraint, &[1])?)))
}

/// A scale whose parameter is scaled, and so on.
fn nested(depth: usize) -> Scale {
    let mut param = Param::new(Role::Constraint, Tensor::ones(vec![1]));
    if depth > 1 {
        param.constrain(Box::new(nested(depth - 1)));
    }
    Scale(param)
}

#[test]
fn constraints_within_constraints_are_written_to_a_bounded_depth() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::core();
    registry.constraint("test.scale", decode_scale);
    for (depth, works) in [(1, true), (3, true), (4, false), (50, false)] {
        let mut graph = network();
        graph.layer_mut::<Conv2d>("conv2").unwrap().unwrap().weight_mut().constrain(Box::new(nested(depth)));
        let path = dir.path().join(depth.to_string());
        let at = Some((path.as_path(), &registry));
        let settings = TrainSettings { epochs: 1, optimizer: Optimizer::sgd(1e-6, 0.0), ..settings() };
        let first = run(graph.clone(), &settings, at, &mut []);
        assert_eq!(first.is_ok(), works, "{depth}");
        if works {
            run(graph, &settings, at, &mut []).unwrap(); // read back
        } else {
            assert!(first.unwrap_err().to_string().contains("levels of constraints"));
        }
    }
}
