//! A method with fine-tuning after it.

use super::train::TrainSection;
use cnn_core::{Compressor, Config, Graph, Result, Run};

/// Applies a method, then trains with the run's settings, as far as `finetune` says nothing else. The network
/// changes as a whole or not at all.
#[derive(Debug)]
pub struct FineTuned {
    /// The method.
    pub method: Box<dyn Compressor>,
    /// How to train afterwards.
    pub finetune: TrainSection,
}

impl Compressor for FineTuned {
    fn name(&self) -> String {
        self.method.name()
    }

    fn config(&self) -> Config {
        let mut config = self.method.config();
        if let (Some(keys), Ok(finetune)) = (config.as_object_mut(), serde_json::to_value(&self.finetune)) {
            keys.insert("finetune".to_string(), finetune);
        }
        config
    }

    fn apply(&self, graph: &mut Graph, run: &mut Run<'_>) -> Result<()> {
        let settings = self.finetune.over(&run.settings)?;
        let mut next = graph.clone();
        self.method.apply(&mut next, run)?;
        run.fine_tune(&mut next, &settings)?;
        *graph = next;
        Ok(())
    }

    fn pack(&self, graph: &mut Graph) -> Result<()> {
        self.method.pack(graph)
    }
}
