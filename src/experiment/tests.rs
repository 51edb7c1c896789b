//! What of a folder is kept: unit tests of the judgement on single records and plans.

use super::identity;
use super::kept::{impossible, is_marked};
use crate::record::{Evaluation, Failure, RunRecord, Status};
use crate::spec::{self, CheckpointEvery, Overrides, Plan};

fn plan() -> Plan {
    let set = vec!["train.steps=4".to_owned(), "train.schedule.warmup=1".to_owned()];
    let overrides = Overrides { set, ..Overrides::default() };
    Plan::read("default.toml", spec::DEFAULT, &overrides).unwrap()
}

/// A record of all four steps.
fn completed(plan: &Plan) -> RunRecord {
    let mut record = super::run::failed(&plan.variants[0], 1, String::new());
    record.summary.status = Status::Completed;
    record.summary.failure = None;
    record.summary.steps = 4;
    record.summary.test_accuracy = Some(0.5);
    record.loss = vec![Some(1.0); 4];
    record.evaluations = vec![Evaluation {
        step: 4,
        accuracy: Some(0.5),
        squared_error: None,
        perplexity: None,
        loss: None,
    }];
    record
}

#[test]
fn a_record_that_cannot_be_is_not_believed() {
    let plan = plan();
    let whole = completed(&plan);
    let of = |record: &RunRecord| impossible(record, ("fp32", 1), &plan);
    assert_eq!(of(&whole), None);
    let rows: [(fn(&mut RunRecord), &str); 9] = [
        (
            |r| r.variant = "fp16\u{1b}[2J".to_owned(),
            "its record is that of fp16\\u{1b}[2J, seed 1",
        ),
        (|r| r.summary.seed = 0, "its record is that of fp32, seed 0"),
        (|r| r.summary.status = Status::Failed, "it failed"),
        (|r| r.summary.steps = 3, "its record tells of 3 steps of 4"),
        (|r| r.summary.steps = 999, "its record tells of 999 steps of 4"),
        (|r| r.loss.truncate(3), "its record has 3 losses of 4 steps"),
        (
            |r| r.summary.test_accuracy = Some(0.99),
            "its accuracy is not that of its last evaluation",
        ),
        (|r| r.summary.test_accuracy = None, "its accuracy is not that of its last evaluation"),
        (
            |r| {
                r.summary.test_accuracy = Some(1.5);
                r.evaluations[0].accuracy = Some(1.5);
            },
            "its accuracy is not that of its last evaluation",
        ),
    ];
    for (change, reason) in rows {
        let mut record = whole.clone();
        change(&mut record);
        assert_eq!(of(&record).as_deref(), Some(reason));
    }
}

#[test]
fn a_run_that_diverged_may_end_anywhere_in_its_steps() {
    let plan = plan();
    for (steps, believed) in [(0, false), (1, true), (4, true), (5, false)] {
        let mut record = completed(&plan);
        let summary = &mut record.summary;
        summary.status = Status::Diverged;
        summary.failure = Some(Failure { step: 0, layer: None, reason: String::new() });
        summary.steps = steps;
        record.loss = vec![None; steps as usize];
        assert_eq!(impossible(&record, ("fp32", 1), &plan).is_none(), believed, "{steps}");
    }
}

#[test]
fn a_results_file_is_known_by_how_it_begins() {
    for (text, ours) in [
        ("{\n  \"schema\": 1,\n  \"experiment\"", true),
        ("{\"schema\":1}", true),
        ("{\"schema\": ", true),
        ("{\"name\": \"x\", \"schema\": 1}", false),
        ("[1, 2]", false),
        ("", false),
    ] {
        assert_eq!(is_marked(text.as_bytes()), ours, "{text}");
    }
}

#[test]
fn neither_published_figures_nor_checkpoints_decide_a_run() {
    let plan = plan();
    let with_reference = Plan { reference: Some("figures.toml".into()), ..plan.clone() };
    let mut kept = plan.clone();
    kept.train.checkpoint_every = CheckpointEvery::Steps(7);
    for other in [&with_reference, &kept] {
        let [one, other] = [&plan, other].map(|plan| identity::deciding(plan).to_string());
        assert_eq!(one, other);
    }
    assert_eq!(plan.digest(), with_reference.digest());
    assert_eq!(plan.digest(), kept.digest());
}
