//! The keys of a spec by their paths, to suggest the right one for a wrong one.

use strsim::damerau_levenshtein;

/// Letters that may be wrong in a key.
const MOST_WRONG: usize = 2;

/// Every key that is not in a list, of every kind of data, model and optimizer.
const PATHS: [&str; 99] = [
    "name",
    "data",
    "data.kind",
    "data.train",
    "data.test",
    "data.seed",
    "data.train_images",
    "data.train_labels",
    "data.test_images",
    "data.test_labels",
    "data.held_out",
    "data.train_inputs",
    "data.train_targets",
    "data.test_inputs",
    "data.test_targets",
    "data.test_share",
    "data.archive",
    "data.target",
    "data.features",
    "data.task",
    "data.text",
    "data.source",
    "data.length",
    "data.tokenizer",
    "data.vocabulary",
    "data.resize",
    "data.path",
    "data.augment",
    "data.augment.crop",
    "data.augment.flip",
    "model",
    "model.kind",
    "model.hidden",
    "model.activation",
    "model.dropout",
    "model.attention_dropout",
    "model.blocks",
    "model.batch_norm",
    "model.depth",
    "model.width",
    "model.layers",
    "model.heads",
    "model.feed_forward",
    "model.norm",
    "model.pool",
    "model.size",
    "model.kv_heads",
    "model.style",
    "model.residual_init",
    "model.folder",
    "train",
    "train.steps",
    "train.epochs",
    "train.batch",
    "train.accumulate",
    "train.optimizer",
    "train.optimizer.kind",
    "train.optimizer.lr",
    "train.optimizer.momentum",
    "train.optimizer.nesterov",
    "train.optimizer.weight_decay",
    "train.optimizer.beta1",
    "train.optimizer.beta2",
    "train.optimizer.eps",
    "train.schedule",
    "train.schedule.kind",
    "train.schedule.warmup",
    "train.schedule.floor",
    "train.clip_norm",
    "train.label_smoothing",
    "train.evaluate_every",
    "train.cuda_graphs",
    "train.checkpoint_every",
    "measure",
    "measure.census_every",
    "measure.timing_blocks",
    "measure.timing_steps",
    "measure.timing_warmup",
    "measure.inference_batch",
    "measure.equivalence_margin",
    "init",
    "measure.error_margin",
    "measure.serving",
    "measure.serving.prompt",
    "measure.serving.generate",
    "measure.serving.batch",
    "measure.serving.prompts",
    "baseline",
    "variants",
    "seeds",
    "controls",
    "claims",
    "claims.train_time",
    "claims.train_memory",
    "claims.inference_memory",
    "claims.inference_time",
    "claims.rarer",
    "claims.gradient_underflow",
    "reference",
];

/// A message on a key, with the key that was probably meant where it says that there is no such key.
pub(super) fn with_suggestion(path: &str, message: &str) -> String {
    let unknown = message.starts_with("unknown key") && !path.contains('[');
    let suggestion = unknown.then(|| suggest(path)).flatten();
    match (suggestion, message.split_once("; known: ")) {
        (Some(meant), Some((head, known))) => {
            format!("{head} (did you mean {meant}?); known: {known}")
        }
        _ => message.to_owned(),
    }
}

/// The known paths whose last key is nearest to that of a wrong path; those in the same table, if there are any.
fn suggest(path: &str) -> Option<String> {
    let split = |path: &'static str| path.rsplit_once('.').unwrap_or(("", path));
    let (table, wrong) = path.rsplit_once('.').unwrap_or(("", path));
    let distance = |known: &'static str| damerau_levenshtein(wrong, split(known).1);
    let others = || PATHS.into_iter().filter(|known| *known != path);
    let nearest = others().map(distance).min()?;
    if nearest > MOST_WRONG || nearest >= wrong.len() {
        return None;
    }
    let found: Vec<&str> = others().filter(|known| distance(known) == nearest).collect();
    let beside: Vec<&str> = found.iter().copied().filter(|known| split(known).0 == table).collect();
    Some(if beside.is_empty() { found } else { beside }.join(" or "))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{DEFAULT, Overrides, Plan};
    use super::*;

    /// The message on a default spec with these changes.
    fn message(set: &[&str]) -> String {
        let set = set.iter().map(ToString::to_string).collect();
        let overrides = Overrides { set, ..Overrides::default() };
        Plan::read("default.toml", DEFAULT, &overrides).unwrap_err().to_string()
    }

    /// What the types know is what is listed here.
    #[test]
    fn every_key_has_its_path() {
        let mut expected = BTreeSet::new();
        for (table, change) in [
            ("", None),
            ("data", None),
            ("data", Some("data={kind=\"idx\"}")),
            ("data", Some("data={kind=\"cifar10\"}")),
            ("data", Some("data={kind=\"image-folder\"}")),
            ("data", Some("data={kind=\"npy\"}")),
            ("data", Some("data={kind=\"text\"}")),
            ("data", Some("data={kind=\"csv\"}")),
            ("data", Some("data={kind=\"plain-text\"}")),
            ("data.augment", Some("data={kind=\"cifar100\"}")),
            ("model", None),
            ("model", Some("model={kind=\"cnn\"}")),
            ("model", Some("model={kind=\"resnet\"}")),
            ("model", Some("model={kind=\"encoder\"}")),
            ("model", Some("model={kind=\"decoder\"}")),
            ("model", Some("model={kind=\"pretrained\"}")),
            ("model", Some("model={kind=\"layers\"}")),
            ("train", None),
            ("train.optimizer", None),
            ("train.optimizer", Some("train.optimizer={kind=\"sgd\"}")),
            ("train.schedule", None),
            ("measure", None),
            ("measure.serving", None),
            ("claims", None),
        ] {
            let below = |key: &str| {
                if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
            };
            let wrong = format!("{}=1", below("no_such_key"));
            let set: Vec<&str> = change.into_iter().chain([wrong.as_str()]).collect();
            let message = message(&set);
            let (_, known) = message.split_once("known: ").expect(&message);
            expected.extend(known.split(", ").map(below));
            if ["data", "model", "train.optimizer"].contains(&table) {
                expected.insert(below("kind"));
            }
        }
        let paths: BTreeSet<String> = PATHS.map(str::to_owned).into();
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_wrong_key_is_told_the_right_path() {
        for (path, meant) in [
            ("batch", Some("train.batch or measure.serving.batch")),
            ("epochs", Some("train.epochs")),
            ("lr", Some("train.optimizer.lr")),
            ("train.lr", Some("train.optimizer.lr")),
            ("train.stesp", Some("train.steps")),
            ("trian", Some("train")),
            ("seed", Some("data.seed")),
            ("claims.train_times", Some("claims.train_time")),
            (
                "kind",
                Some("data.kind or model.kind or train.optimizer.kind or train.schedule.kind"),
            ),
            ("model.blocks", None),
            ("learning_rate", None),
            ("x", None),
        ] {
            assert_eq!(suggest(path).as_deref(), meant, "{path}");
        }
        assert_eq!(
            message(&["batch=64"]),
            "--set batch=64: batch: unknown key \"batch\" (did you mean train.batch or measure.serving.batch?); known: name, data, model, train, measure, \
             init, baseline, variants, seeds, controls, claims, reference"
        );
    }
}
