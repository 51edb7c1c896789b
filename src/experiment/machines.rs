//! What is said of an experiment whose runs were done on machines of several kinds.

use std::collections::BTreeMap;

use super::session::Records;
use crate::formatting;
use crate::record::{MachineRuns, Results, RunMachine};

/// The kinds of machine, where there are several, each with its runs.
pub(super) fn kinds(records: &Records) -> Vec<MachineRuns> {
    let mut kinds: BTreeMap<&RunMachine, BTreeMap<String, Vec<u64>>> = BTreeMap::new();
    for ((variant, seed), record) in records {
        if let Some(machine) = &record.machine {
            let seeds = kinds.entry(machine).or_default();
            seeds.entry(variant.clone()).or_default().push(*seed);
        }
    }
    if kinds.len() < 2 {
        return Vec::new();
    }
    let runs = |(machine, seeds): (&RunMachine, _)| MachineRuns { machine: machine.clone(), seeds };
    kinds.into_iter().map(runs).collect()
}

/// A sentence on the machines, and one on each variant with pairs of runs whose machines differ.
pub(super) fn notes(results: &Results) -> Vec<String> {
    if results.machines.is_empty() {
        return Vec::new();
    }
    let described = |runs: &MachineRuns| {
        let count = runs.seeds.values().map(Vec::len).sum();
        format!("{} ({})", describe(&runs.machine), formatting::plural(count, "run"))
    };
    let all: Vec<String> = results.machines.iter().map(described).collect();
    let mut notes = vec![format!(
        "The runs were done on machines of {} kinds: {}. Times are of one machine, {}.",
        all.len(),
        formatting::list(&all),
        results.environment.device_name
    )];
    let baseline = &results.plan.baseline;
    for variant in results.variants.iter().filter(|variant| variant.name != *baseline) {
        let unlike: Vec<String> = unlike_pairs(results, &variant.name, baseline)
            .into_iter()
            .map(|seed| seed.to_string())
            .collect();
        if !unlike.is_empty() {
            let seeds = if unlike.len() == 1 { "seed" } else { "seeds" };
            notes.push(format!(
                "{}: the runs of {seeds} {} were done on another kind of machine than those of {baseline} that they are \
                 paired with: their differences may be of the machines.",
                variant.name,
                formatting::list(&unlike)
            ));
        }
    }
    notes
}

/// A sentence on the kinds of machine of a plan that are not timed yet, and one on those whose machines cannot be told apart.
pub(super) fn notes_on_kinds(kinds: &[String], results: &Results) -> Vec<String> {
    let first = results.machine_kind.iter().map(|kind| (kind, &results.environment));
    let others = results.other_kinds.iter().map(|times| (&times.kind, &times.environment));
    let timed: Vec<(&String, RunMachine)> =
        first.chain(others).map(|(kind, on)| (kind, RunMachine::of(on))).collect();
    let is_missing = |kind: &&String| timed.iter().all(|(timed, _)| timed != kind);
    let missing: Vec<String> = kinds.iter().filter(is_missing).cloned().collect();
    let mut notes = Vec::new();
    if !missing.is_empty() {
        notes.push(format!("Not timed yet: the kinds of machine {}.", formatting::list(&missing)));
    }
    let mut alike: BTreeMap<&RunMachine, Vec<String>> = BTreeMap::new();
    for (kind, machine) in &timed {
        alike.entry(machine).or_default().push((*kind).clone());
    }
    for (machine, kinds) in alike.into_iter().filter(|(_, kinds)| kinds.len() > 1) {
        notes.push(format!(
            "The kinds of machine {} were timed on machines that say the same of themselves, {}: was one started on the wrong machine?",
            formatting::list(&kinds),
            describe(machine)
        ));
    }
    notes
}

/// The seeds of which two variants were run on machines of different kinds.
fn unlike_pairs(results: &Results, variant: &str, baseline: &str) -> Vec<u64> {
    let place = |variant: &str, seed: u64| {
        let holds =
            |runs: &MachineRuns| runs.seeds.get(variant).is_some_and(|seeds| seeds.contains(&seed));
        results.machines.iter().position(holds)
    };
    let unlike = |seed: &u64| match (place(variant, *seed), place(baseline, *seed)) {
        (Some(one), Some(other)) => one != other,
        _ => false,
    };
    results.plan.seeds.iter().copied().filter(unlike).collect()
}

/// A kind of machine in words.
fn describe(machine: &RunMachine) -> String {
    let RunMachine { device_name, driver, product_paths, .. } = machine;
    let driver = driver.as_ref().map(|driver| format!(", driver {driver}")).unwrap_or_default();
    let paths = match &product_paths[..] {
        [] => String::new(),
        paths => format!(", products {}", paths.join(", ")),
    };
    format!("{device_name}{driver}{paths}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RunRecord;
    use crate::spec::{DEFAULT, Overrides, Plan};

    fn machine(device_name: &str) -> RunMachine {
        RunMachine {
            device: "cpu".to_owned(),
            device_name: device_name.to_owned(),
            driver: None,
            product_paths: vec!["f32: FMA".to_owned()],
        }
    }

    fn record(plan: &Plan, (variant, seed): (usize, u64), on: &str) -> ((String, u64), RunRecord) {
        let variant = &plan.variants[variant];
        let failed = super::super::run::failed(variant, seed, String::new());
        ((variant.name.clone(), seed), RunRecord { machine: Some(machine(on)), ..failed })
    }

    #[test]
    fn one_kind_of_machine_is_not_spoken_of() {
        let plan = Plan::read("default.toml", DEFAULT, &Overrides::default()).unwrap();
        let runs = [(0, 0), (1, 0), (0, 1)];
        let records: Records = runs.map(|run| record(&plan, run, "a")).into_iter().collect();
        assert_eq!(kinds(&records), []);
    }

    #[test]
    fn each_kind_has_its_runs() {
        let plan = Plan::read("default.toml", DEFAULT, &Overrides::default()).unwrap();
        let [first, second] = [0, 1].map(|index: usize| plan.variants[index].name.clone());
        let runs = [((0, 0), "a"), ((0, 1), "b"), ((1, 0), "b"), ((1, 1), "b")];
        let records: Records = runs.map(|(run, on)| record(&plan, run, on)).into_iter().collect();
        let seeds = |rows: &[(&String, &[u64])]| {
            rows.iter().map(|(name, seeds)| ((*name).clone(), seeds.to_vec())).collect()
        };
        let expected = [
            MachineRuns { machine: machine("a"), seeds: seeds(&[(&first, &[0])]) },
            MachineRuns {
                machine: machine("b"),
                seeds: seeds(&[(&first, &[1]), (&second, &[0, 1])]),
            },
        ];
        assert_eq!(kinds(&records), expected);
    }
}
