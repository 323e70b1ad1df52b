//! The methods in whole trainings, through the core's public types.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use cnn_core::data::{Augment, MemoryDataset, Preprocess};
use cnn_core::init::Init;
use cnn_core::layers::{Activation, Conv2d, ConvOptions, Flatten, GlobalAvgPool, Linear, Softmax};
use cnn_core::model_file::{Encoder, deploy_bytes};
use cnn_core::tensor::zeros;
use cnn_core::testing::stripes;
use cnn_core::train::{CrossEntropy, Objective, Optimizer, TrainSettings};
use cnn_core::{
    Chain, Compressor, Config, Cost, Error, Graph, Layer, NetworkOptions, Registry, Result, Run, Tensor,
};
use cnn_distill::{Anneal, Distill, DistillError, SoftTargets, Teaching, mean_divergence, teach};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

const SHAPE: [usize; 3] = [1, 8, 8];

/// One convolution of `24 width` filters of 5 x 5, pooled over the image.
fn one_conv(options: &NetworkOptions) -> Result<Graph> {
    let ([c, h, w], classes) = (options.input.unwrap_or(SHAPE), options.classes.unwrap_or(4));
    let filters = (24.0 * options.width).round() as usize;
    let mut init = Init::new(options.seed);
    let mut graph = Graph::new(&[c, h, w]);
    let conv = Conv2d::new(init.he(&[filters, c, 5, 5])?, Some(zeros(&[filters])), ConvOptions::default())?;
    graph.push("conv", conv)?;
    graph.push("relu", Activation::relu())?;
    graph.push("pool", GlobalAvgPool)?;
    graph.push("flatten", Flatten)?;
    graph.push("fc", Linear::new(init.glorot(&[classes, filters])?, Some(zeros(&[classes])))?)?;
    Ok(graph)
}

fn network(width: f64, classes: usize, seed: u64) -> Graph {
    one_conv(&NetworkOptions { input: Some(SHAPE), classes: Some(classes), width, seed }).unwrap()
}

fn registry() -> Registry {
    let mut registry = Registry::core();
    registry.network("one_conv", one_conv);
    cnn_distill::register(&mut registry);
    registry
}

fn settings(epochs: usize) -> TrainSettings {
    TrainSettings { epochs, batch: 16, optimizer: Optimizer::adamw(0.01, 1e-4), ..TrainSettings::default() }
}

fn student(width: f64) -> Distill {
    Distill { student: "one_conv".into(), width, ..Distill::default() }
}

fn data(count: usize, classes: usize, seed: u64) -> MemoryDataset {
    stripes(count, SHAPE, classes, seed).unwrap()
}

fn trained(classes: usize, registry: &Registry) -> Graph {
    let (many, few) = (data(160, classes, 1), data(16, classes, 2));
    let mut run = Run::new(&many, &few, settings(8), registry);
    let mut graph = network(1.0, classes, 0);
    run.fine_tune(&mut graph, &settings(8)).unwrap();
    graph
}

fn distill_error(error: Error) -> DistillError {
    match error {
        Error::Method(inner) => inner.downcast_ref::<DistillError>().unwrap().clone(),
        other => panic!("not an error of the method: {other}"),
    }
}

/// The teacher saw 1600 images, the students 48 of 16 classes. Each student comes closer to the teacher with
/// it than without, and together they are right more often.
#[test]
fn a_teacher_helps_a_student_that_sees_few_images() {
    let classes = 16;
    let registry = registry();
    let (many, few, test) = (data(1600, classes, 1), data(48, classes, 2), data(800, classes, 3));
    let adamw = |epochs| TrainSettings { optimizer: Optimizer::adamw(0.005, 1e-4), ..settings(epochs) };
    let mut run = Run::new(&many, &test, adamw(15), &registry);
    let mut teacher = network(32.0 / 24.0, classes, 0);
    run.fine_tune(&mut teacher, &adamw(15)).unwrap();
    assert!(run.accuracy(&teacher).unwrap() > 0.95);

    let none = data(0, classes, 4);
    let mut run = Run::new(&few, &none, adamw(200), &registry);
    let mut gained = 0.0;
    for seed in 1..=5 {
        let mut train = |alpha: f64| {
            let mut student = network(0.5, classes, seed);
            let method = Distill { alpha, ..Distill::default() };
            method.train(&mut student, &teacher, &mut run).unwrap();
            let kl = mean_divergence(&teacher, &student, &test, 1.0).unwrap();
            (cnn_core::train::accuracy(&student, &test).unwrap(), kl)
        };
        let (alone, taught) = (train(0.0), train(0.7));
        assert!(
            taught.1 < 0.95 * alone.1,
            "seed {seed}: KL {} with, {} without a teacher",
            taught.1,
            alone.1
        );
        gained += taught.0 - alone.0;
    }
    assert!(gained > 0.0, "accuracy changed by {}", gained / 5.0);
}

#[test]
fn the_student_takes_the_teachers_place_and_comes_close_to_it() {
    let registry = registry();
    let (train, validation) = (data(160, 4, 1), data(80, 4, 3));
    let teacher = trained(4, &registry);
    let mut run = Run::new(&train, &validation, settings(40), &registry);
    let untrained = network(0.5, 4, 7);
    let mut graph = teacher.clone();
    let method = Distill { seed: Some(7), ..student(0.5) };
    method.apply(&mut graph, &mut run).unwrap();
    assert_eq!(graph.cost().unwrap().params, untrained.cost().unwrap().params);
    let kl = |student: &Graph| mean_divergence(&teacher, student, &validation, 1.0).unwrap();
    assert!(kl(&graph) < 0.2 * kl(&untrained), "{} {}", kl(&graph), kl(&untrained));
    assert!(run.accuracy(&graph).unwrap() > 0.9);
    // the run's own objective is back: a training is the plain one again
    let (mut a, mut b) = (untrained.clone(), untrained);
    run.fine_tune(&mut a, &settings(1)).unwrap();
    Run::new(&train, &validation, settings(1), &registry).fine_tune(&mut b, &settings(1)).unwrap();
    assert_eq!(deploy_bytes(&a, true).unwrap(), deploy_bytes(&b, true).unwrap());
}

#[test]
fn without_weight_on_the_teacher_the_training_is_the_plain_one() {
    let registry = registry();
    let (train, teacher) = (data(40, 4, 1), trained(4, &registry));
    let mut run = Run::new(&train, &train, settings(3), &registry);
    let (mut plain, mut taught) = (network(0.5, 4, 5), network(0.5, 4, 5));
    run.fine_tune(&mut plain, &settings(3)).unwrap();
    Distill { alpha: 0.0, ..Distill::default() }.train(&mut taught, &teacher, &mut run).unwrap();
    assert_eq!(deploy_bytes(&plain, true).unwrap(), deploy_bytes(&taught, true).unwrap());
}

/// A method that only fine-tunes and knows nothing of teachers.
#[derive(Debug)]
struct Retrain;

impl Compressor for Retrain {
    fn name(&self) -> String {
        "test.retrain".into()
    }
    fn config(&self) -> Config {
        Config::Null
    }
    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        // damage that needs repair, as pruning does
        if let Some(fc) = graph.layer_mut::<Linear>("fc")? {
            let halved = fc.weight().base().mapv(|w| if w.abs() < 0.2 { 0.0 } else { w });
            fc.weight_mut().set_base(halved);
        }
        let settings = run.settings.clone();
        run.fine_tune(graph, &settings).map(|_| ())
    }
}

#[test]
fn other_methods_retrain_with_a_teacher() {
    let registry = registry();
    let (train, validation) = (data(32, 4, 5), data(80, 4, 3));
    let teacher = trained(4, &registry);
    let retrained = |config: Config| {
        let first = registry.build_method("distill.teacher", config).unwrap();
        let chain = Chain::new("taught", vec![first, Box::new(Retrain)]);
        let mut run = Run::new(&train, &validation, settings(10), &registry);
        let mut graph = teacher.clone();
        chain.apply(&mut graph, &mut run).unwrap();
        chain.pack(&mut graph).unwrap();
        graph
    };
    let (alone, taught) = (retrained(json!({ "alpha": 0.0 })), retrained(json!({ "alpha": 1.0 })));
    let kl = |student: &Graph| mean_divergence(&teacher, student, &validation, 4.0).unwrap();
    assert!(kl(&taught) < 0.5 * kl(&alone), "{} {}", kl(&taught), kl(&alone));

    // the same by hand, through the function
    let mut run = Run::new(&train, &validation, settings(10), &registry);
    let mut graph = teacher.clone();
    teach(&mut run, &teacher, &Teaching { alpha: 1.0, ..Teaching::default() }).unwrap();
    Retrain.apply(&mut graph, &mut run).unwrap();
    assert_eq!(deploy_bytes(&graph, true).unwrap(), deploy_bytes(&taught, true).unwrap());
}

#[test]
fn the_runs_own_loss_is_the_term_of_the_labels() {
    let registry = registry();
    let train = data(4, 4, 5);
    let teacher = trained(4, &registry);
    let smooth = CrossEntropy { label_smoothing: 0.3 };
    let mut run = Run::new(&train, &train, settings(1), &registry);
    run.objective = Box::new(smooth);
    teach(&mut run, &teacher, &Teaching { alpha: 0.5, ..Teaching::default() }).unwrap();
    let (images, labels) = cnn_core::data::batch(&train, &[0, 1, 2, 3]).unwrap();
    let batch = cnn_core::train::Batch { ids: &[0, 1, 2, 3], images: &images, labels: &labels };
    // where the student is the teacher, only the labels' term is left
    let logits = teacher.infer(&images).unwrap();
    let taught = run.objective.loss(&batch, &[&logits]).unwrap().value;
    let alone = { smooth }.loss(&batch, &[&logits]).unwrap().value;
    assert!((taught - 0.5 * alone).abs() < 1e-12);
}

/// A linear layer as a packed one: no parameters, no training.
#[derive(Debug, Clone)]
struct Packed(Linear);

impl Layer for Packed {
    fn kind(&self) -> &'static str {
        "test.packed"
    }
    fn output_shape(&self, inputs: &[&[usize]]) -> Result<Vec<usize>> {
        self.0.output_shape(inputs)
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Tensor> {
        self.0.infer(inputs)
    }
    fn cost(&self, inputs: &[&[usize]]) -> Result<Cost> {
        self.0.cost(inputs)
    }
    fn encode(&self, out: &mut Encoder) -> Result<()> {
        self.0.encode(out)
    }
    fn clone_box(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

#[test]
fn a_packed_teacher_teaches_the_same() {
    let registry = registry();
    let (train, teacher) = (data(40, 4, 1), trained(4, &registry));
    let mut packed = teacher.clone();
    let fc = packed.layer::<Linear>("fc").unwrap().unwrap().clone();
    packed.replace("fc", Box::new(Packed(fc))).unwrap();
    let taught = |teacher: &Graph| {
        let mut run = Run::new(&train, &train, settings(3), &registry);
        let mut graph = teacher.clone();
        student(0.5).apply(&mut graph, &mut run).unwrap();
        deploy_bytes(&graph, true).unwrap()
    };
    assert_eq!(taught(&packed), taught(&teacher));
}

/// Turns an image upside down, or not.
#[derive(Debug)]
struct Flip;

impl Augment for Flip {
    fn apply(&self, image: &mut [f32], _shape: [usize; 3], rng: &mut ChaCha8Rng) {
        use rand_chacha::rand_core::RngCore;
        if rng.next_u32() & 1 == 1 {
            image.reverse();
        }
    }
}

#[test]
fn the_teacher_sees_the_augmented_images() {
    let registry = registry();
    let (train, teacher) = (data(40, 4, 1), trained(4, &registry));
    let trained = |cache: bool, augment: Option<&dyn Augment>| {
        let mut run = Run::new(&train, &train, settings(4), &registry);
        run.augment = augment;
        let mut graph = network(0.5, 4, 5);
        Distill { cache, ..Distill::default() }.train(&mut graph, &teacher, &mut run).unwrap();
        deploy_bytes(&graph, true).unwrap()
    };
    // a remembered answer to another image would change the bits
    assert_eq!(trained(true, None), trained(false, None));
    assert_eq!(trained(true, Some(&Flip)), trained(false, Some(&Flip)));
    assert_ne!(trained(true, Some(&Flip)), trained(true, None));
}

#[test]
fn the_same_bits_whatever_the_number_of_threads() {
    let registry = registry();
    let train = data(64, 4, 1);
    let teacher = trained(4, &registry);
    let bytes = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut run = Run::new(&train, &train, settings(3), &registry);
            let mut graph = teacher.clone();
            student(0.5).apply(&mut graph, &mut run).unwrap();
            deploy_bytes(&graph, true).unwrap()
        })
    };
    assert_eq!(bytes(1), bytes(3));
}

#[test]
fn bad_configurations_are_refused() {
    let registry = registry();
    for (method, config) in [
        ("distill.soft_targets", json!({ "temperature": 0.0 })),
        ("distill.soft_targets", json!({ "temperature": -2.0 })),
        ("distill.soft_targets", json!({ "alpha": 1.5 })),
        ("distill.soft_targets", json!({ "anneal": { "steps": 1 } })),
        ("distill.soft_targets", json!({ "anneal": "sudden" })),
        ("distill.soft_targets", json!({ "width": 0.0 })),
        ("distill.soft_targets", json!({ "rate": -0.1 })),
        ("distill.soft_targets", json!({ "optimizer": { "sgd": { "rate": -1.0 } } })),
        ("distill.soft_targets", json!({ "teacher": "lenet5" })),
        ("distill.teacher", json!({ "alpha": -0.5 })),
        ("distill.teacher", json!({ "student": "one_conv" })),
    ] {
        assert!(registry.build_method(method, config.clone()).is_err(), "{method} {config}");
    }
    assert!(Distill { width: f64::NAN, ..student(1.0) }.check().is_err());
    assert!(Distill { temperature: f64::NAN, ..student(1.0) }.check().is_err());
    let method = registry.build_method("distill.soft_targets", json!({ "anneal": "linear" })).unwrap();
    assert_eq!(method.config()["anneal"], json!("linear"));
    assert_eq!(
        registry.build_method("distill.soft_targets", method.config()).unwrap().config(),
        method.config()
    );
}

#[test]
fn networks_that_do_not_suit_are_refused_and_the_graph_stays() {
    let registry = registry();
    let train = data(8, 4, 1);
    let mut run = Run::new(&train, &train, settings(1), &registry);
    let teacher = network(0.5, 4, 0);
    let before = deploy_bytes(&teacher, true).unwrap();
    let mut refuse = |method: &Distill, mut graph: Graph| {
        let bytes = deploy_bytes(&graph, true).unwrap();
        let error = method.apply(&mut graph, &mut run).unwrap_err();
        assert_eq!(deploy_bytes(&graph, true).unwrap(), bytes);
        error
    };

    let unknown = refuse(&Distill { student: "resnet".into(), ..student(1.0) }, teacher.clone()).to_string();
    assert!(unknown.contains("resnet") && unknown.contains("one_conv"), "{unknown}");
    let unnamed = distill_error(refuse(&Distill::default(), teacher.clone()));
    assert_eq!(unnamed, DistillError::NoStudent { known: "one_conv".into() });
    for width in [0.5, 2.0] {
        let error = distill_error(refuse(&student(width), teacher.clone()));
        assert!(matches!(error, DistillError::NotSmaller { .. }), "{error}");
    }
    let error = distill_error(refuse(&student(0.1), network(0.5, 5, 0)));
    assert_eq!(error, DistillError::Classes { who: "teacher", found: 5, wanted: 4 });
    let small = one_conv(&NetworkOptions { input: Some([1, 7, 7]), ..NetworkOptions::default() }).unwrap();
    let error = distill_error(refuse(&student(0.1), small));
    assert_eq!(error, DistillError::Images { who: "teacher", found: vec![1, 7, 7], wanted: SHAPE.to_vec() });
    let mut probabilities = teacher.clone();
    probabilities.push("softmax", Softmax).unwrap();
    let error = distill_error(refuse(&student(0.1), probabilities));
    assert_eq!(error, DistillError::Softmax { who: "teacher", node: "softmax".into() });
    let mut elsewhere = teacher.clone();
    elsewhere.preprocess = Some(Preprocess { mean: vec![0.5], std: vec![0.5] });
    let here = data(8, 4, 1).with_preprocess(Preprocess { mean: vec![0.1], std: vec![0.3] });
    let mut run = Run::new(&here, &train, settings(1), &registry);
    assert_eq!(
        distill_error(teach(&mut run, &elsewhere, &Teaching::default()).unwrap_err()),
        DistillError::Preprocess
    );
    assert_eq!(deploy_bytes(&teacher, true).unwrap(), before);
}

#[test]
fn a_failed_training_puts_the_objective_back() {
    let registry = registry();
    let (train, none) = (data(8, 4, 1), data(0, 4, 1));
    let teacher = trained(4, &registry);
    let mut run = Run::new(&none, &train, settings(1), &registry);
    let smooth = CrossEntropy { label_smoothing: 0.25 };
    run.objective = Box::new(smooth);
    let mut graph = teacher.clone();
    assert!(student(0.25).apply(&mut graph, &mut run).is_err());
    assert_eq!(deploy_bytes(&graph, true).unwrap(), deploy_bytes(&teacher, true).unwrap());
    assert_eq!(format!("{:?}", run.objective), format!("{smooth:?}"));
}

#[test]
fn the_course_of_the_temperature_is_driven_by_the_trainer() {
    // with one epoch the temperature stays; with more, the course changes what is learnt
    let registry = registry();
    let (train, teacher) = (data(40, 4, 1), trained(4, &registry));
    let bytes = |anneal: Anneal, epochs: usize| {
        let mut run = Run::new(&train, &train, settings(epochs), &registry);
        run.objective =
            Box::new(SoftTargets::new(teacher.clone(), Teaching { anneal, ..Teaching::default() }).unwrap());
        let mut graph = network(0.5, 4, 5);
        run.fine_tune(&mut graph, &settings(epochs)).unwrap();
        deploy_bytes(&graph, true).unwrap()
    };
    assert_eq!(bytes(Anneal::Constant, 1), bytes(Anneal::Linear, 1));
    assert_ne!(bytes(Anneal::Constant, 3), bytes(Anneal::Linear, 3));
    assert_eq!(bytes(Anneal::Geometric, 3), bytes(Anneal::Steps(3), 3));
}
