//! Whole specs in, whole plans or exact messages out.

#![expect(clippy::too_many_lines, reason = "tables and whole plans")]

use std::path::Path;

use super::*;

/// A small spec that is right; the tables below break it one line at a time.
const GOOD: &str = r#"name = "small"
seeds = 2
variants = ["fp32", "fp16-mixed"]

[data]
kind = "digits"
train = 100
test = 50

[model]
kind = "cnn"
hidden = [8]

[[model.blocks]]
channels = 4
padding = 1
pool = "max"

[train]
steps = 20
batch = 10

[train.optimizer]
kind = "adamw"
lr = 1e-3
"#;

fn read(text: &str) -> Result<Plan, String> {
    Plan::read("small.toml", text, &Overrides::default()).map_err(|error| error.to_string())
}

fn set(assignments: &[&str]) -> Result<Plan, String> {
    let overrides = Overrides {
        set: assignments.iter().map(ToString::to_string).collect(),
        ..Overrides::default()
    };
    Plan::read("small.toml", GOOD, &overrides).map_err(|error| error.to_string())
}

/// Each row: what to look for in [`GOOD`], what to put there, and the message that must follow.
fn check(rows: &[(&str, &str, &str)]) {
    for (old, new, message) in rows {
        assert_eq!(GOOD.matches(old).count(), 1, "{old} once");
        let error = read(&GOOD.replace(old, new)).err();
        assert_eq!(error.as_deref(), Some(*message), "{new}");
    }
}

#[test]
fn what_toml_or_a_key_gets_wrong_is_named_with_its_place() {
    check(&[
        (
            "steps = 20",
            "stesp = 20",
            "small.toml:20:1: train.stesp: unknown key \"stesp\" (did you mean train.steps?); known: steps, epochs, batch, accumulate, optimizer, schedule, \
             clip_norm, label_smoothing, evaluate_every, cuda_graphs, checkpoint_every",
        ),
        (
            "seeds = 2",
            "sedes = 2",
            "small.toml:2:1: sedes: unknown key \"sedes\" (did you mean seeds?); known: name, data, model, train, measure, init, baseline, variants, \
             seeds, controls, claims, reference",
        ),
        (
            "kind = \"digits\"",
            "kind = \"imagenet\"",
            "small.toml:6:8: data.kind: unknown value \"imagenet\"; known: digits, idx, cifar10, cifar100, image-folder, npy, csv, text, plain-text",
        ),
        (
            "kind = \"digits\"",
            "",
            "small.toml:5:1: data: missing key \"kind\"; known: digits, idx, cifar10, cifar100, image-folder, npy, csv, text, plain-text",
        ),
        (
            "kind = \"cnn\"",
            "kind = \"transformer\"",
            "small.toml:11:8: model.kind: unknown value \"transformer\"; known: mlp, cnn, encoder, decoder, pretrained, resnet, layers",
        ),
        (
            "kind = \"cnn\"",
            "kind = \"mlp\"",
            "small.toml:14:9: model.blocks: unknown key \"blocks\"; known: hidden, activation, dropout",
        ),
        (
            "pool = \"max\"",
            "pool = \"median\"",
            "small.toml:17:8: model.blocks[0].pool: unknown value \"median\"; known: none, max, avg, global",
        ),
        (
            "hidden = [8]",
            "hidden = [8]\nactivation = \"swish\"",
            "small.toml:13:14: model.activation: unknown value \"swish\"; known: relu, gelu, gelu_tanh, tanh",
        ),
        (
            "kind = \"adamw\"",
            "kind = \"lion\"",
            "small.toml:24:8: train.optimizer.kind: unknown value \"lion\"; known: sgd, adamw",
        ),
        ("lr = 1e-3", "", "small.toml:23:1: train.optimizer: missing key \"lr\""),
        (
            "steps = 20",
            "steps = \"many\"",
            "small.toml:20:9: train.steps: invalid type: string \"many\", expected a whole number",
        ),
        (
            "batch = 10",
            "batch = -1",
            "small.toml:21:9: train.batch: invalid value: integer \"-1\", expected a whole number",
        ),
        (
            "seeds = 2",
            "seeds = \"two\"",
            "small.toml:2:9: seeds: expected a number of seeds, or a list of seeds from 0 upwards",
        ),
        ("train = 100", "train = = 100", "small.toml:7:9: extra \"=\", expected nothing"),
    ]);
}

#[test]
fn values_that_cannot_be_are_refused_with_what_would_be_right() {
    check(&[
        (
            "\"small\"",
            "\"../small\"",
            "small.toml:1:8: name: \"../small\" cannot be a folder's name; use 1 to 64 letters, digits, - and _",
        ),
        ("train = 100", "train = 0", "small.toml:7:9: data.train: is 0; must be 1 to 1000000"),
        (
            "hidden = [8]",
            "hidden = [8, 0]",
            "small.toml:12:14: model.hidden[1]: is 0; must be 1 to 65536",
        ),
        (
            "hidden = [8]",
            "hidden = [99999]",
            "small.toml:12:11: model.hidden[0]: is 99999; must be 1 to 65536",
        ),
        (
            "hidden = [8]",
            "hidden = [8]\ndropout = 1.0",
            "small.toml:13:11: model.dropout: is 1; must be 0 or more and below 1",
        ),
        (
            "channels = 4",
            "channels = 0",
            "small.toml:15:12: model.blocks[0].channels: is 0; must be 1 to 65536",
        ),
        (
            "padding = 1",
            "stride = 0",
            "small.toml:16:10: model.blocks[0].stride: is 0; must be 1 to 1024",
        ),
        (
            "padding = 1",
            "groups = 2",
            "small.toml:16:10: model.blocks[0].groups: 2 groups do not divide the 1 input channels",
        ),
        (
            "padding = 1",
            "padding = 1\nkernel = 31",
            "small.toml:17:10: model.blocks[0].kernel: spans 31 pixels, but its input has only 28 and 1 of padding on \
             each side",
        ),
        (
            "padding = 1",
            "kernel = 28",
            "small.toml:17:8: model.blocks[0].pool: its input is 1 pixel wide; 2 × 2 pooling needs at least 2",
        ),
        (
            "steps = 20",
            "steps = 2_000_000_000",
            "small.toml:20:9: train.steps: is 2000000000; must be 0 to 1000000000",
        ),
        ("batch = 10", "batch = 0", "small.toml:21:9: train.batch: is 0; must be 1 to 65536"),
        (
            "batch = 10",
            "batch = 101",
            "small.toml:21:9: train.batch: is 101, but there are only 100 training samples; choose 1 to 100",
        ),
        (
            "batch = 10",
            "batch = 10\naccumulate = 0",
            "small.toml:22:14: train.accumulate: is 0; must be 1 to 65536",
        ),
        (
            "batch = 10",
            "batch = 10\ncheckpoint_every = \"5 m\"",
            "small.toml:22:20: train.checkpoint_every: is \"5 m\"; give a number of steps, a time of 1 s to 1000 h such as \"10 min\", or \"never\"",
        ),
        (
            "batch = 10",
            "batch = 10\nevaluate_every = 0",
            "small.toml:22:18: train.evaluate_every: is 0; must be 1 to 1000000000",
        ),
        (
            "batch = 10",
            "batch = 10\nlabel_smoothing = 1",
            "small.toml:22:19: train.label_smoothing: is 1; must be 0 or more and below 1",
        ),
        (
            "batch = 10",
            "batch = 10\nclip_norm = 0.0",
            "small.toml:22:13: train.clip_norm: is 0; must be finite and over 0",
        ),
        (
            "batch = 10",
            "batch = 10\nschedule = { warmup = 21 }",
            "small.toml:22:23: train.schedule.warmup: is 21, more than the 20 steps of the training",
        ),
        (
            "batch = 10",
            "batch = 10\nschedule = { floor = 1.5 }",
            "small.toml:22:22: train.schedule.floor: is 1.5; must be 0 to 1",
        ),
        (
            "lr = 1e-3",
            "lr = -1e-3",
            "small.toml:25:6: train.optimizer.lr: is -0.001; must be finite and 0 or more",
        ),
        (
            "lr = 1e-3",
            "lr = nan",
            "small.toml:25:6: train.optimizer.lr: is NaN; must be finite and 0 or more",
        ),
        (
            "lr = 1e-3",
            "lr = inf",
            "small.toml:25:6: train.optimizer.lr: is inf; must be finite and 0 or more",
        ),
        (
            "lr = 1e-3",
            "lr = 1e-3\nbeta2 = 1.0",
            "small.toml:26:9: train.optimizer.beta2: is 1; must be 0 or more and below 1",
        ),
        (
            "lr = 1e-3",
            "lr = 1e-3\neps = 0.0",
            "small.toml:26:7: train.optimizer.eps: is 0; must be finite and over 0",
        ),
        (
            "kind = \"adamw\"",
            "kind = \"sgd\"\nnesterov = true",
            "small.toml:25:12: train.optimizer.nesterov: needs momentum; set momentum over 0",
        ),
        (
            "lr = 1e-3",
            "lr = 1e-3\n[measure]\nequivalence_margin = 0.0",
            "small.toml:27:22: measure.equivalence_margin: is 0; must be over 0 and below 1",
        ),
        (
            "lr = 1e-3",
            "lr = 1e-3\n[measure]\nserving = {}",
            "small.toml:27:11: measure.serving: needs a language model: data.kind = \"plain-text\"",
        ),
        (
            "lr = 1e-3",
            "lr = 1e-3\n[measure]\ninference_batch = 51",
            "small.toml:27:19: measure.inference_batch: is 51; must be 1 to 50",
        ),
    ]);
}

#[test]
fn variants_and_seeds_that_cannot_be_are_refused() {
    check(&[
        (
            "\"fp16-mixed\"",
            "\"fp8\"",
            "small.toml:3:21: variants[1].policy: unknown policy \"fp8\"; known: fp32, tf32, fp16-mixed, bf16-mixed, fp16-true, \
             bf16-true, or a text such as params=f32,compute=f16,reduce=f32,scale=dynamic",
        ),
        (
            "\"fp16-mixed\"",
            "\"fp32\"",
            "small.toml:3:21: variants[1].name: a second variant with the name \"fp32\"; give each its own",
        ),
        (
            "\"fp16-mixed\"",
            "{ name = \"a/b\", policy = \"fp32\" }",
            "small.toml:3:30: variants[1].name: \"a/b\" cannot be a folder's name; use 1 to 64 letters, digits, - and _",
        ),
        (
            "\"fp16-mixed\"",
            "{ nam = \"a\", policy = \"fp32\" }",
            "small.toml:3:23: variants[1].nam: unknown key \"nam\"; known: name, policy",
        ),
        (
            "[\"fp32\", \"fp16-mixed\"]",
            "[]",
            "small.toml:3:12: variants: is empty; give at least one policy",
        ),
        (
            "seeds = 2",
            "baseline = \"tf32\"",
            "small.toml:2:12: baseline: no variant is called \"tf32\"; known: fp32, fp16-mixed",
        ),
        ("seeds = 2", "seeds = 0", "small.toml:2:9: seeds: is 0; must be 1 to 10000"),
        ("seeds = 2", "seeds = []", "small.toml:2:9: seeds: lists 0 seeds; must be 1 to 10000"),
        ("seeds = 2", "seeds = [7, 3, 7]", "small.toml:2:9: seeds: lists 7 twice"),
    ]);
}

#[test]
fn controls_and_thresholds_that_cannot_be_are_refused() {
    for (assignment, message) in [
        (
            "controls=[\"same-seed\"]",
            "controls[0]: unknown value \"same-seed\"; known: same-seeds, other-seeds",
        ),
        ("controls=[\"same-seeds\", \"same-seeds\"]", "controls[1]: lists \"same-seeds\" twice"),
        ("controls=same-seeds", "controls: invalid type: string \"same-seeds\", expected a list"),
        (
            "claims.train_times=0.5",
            "claims.train_times: unknown key \"train_times\" (did you mean claims.train_time?); known: train_time, train_memory, inference_memory, \
             inference_time, rarer, gradient_underflow",
        ),
        ("claims.train_time=0", "claims.train_time: is 0; must be finite and over 0"),
        ("claims.train_time=inf", "claims.train_time: is inf; must be finite and over 0"),
        (
            "claims.inference_memory=nan",
            "claims.inference_memory: is NaN; must be finite and over 0",
        ),
        ("claims.inference_time=-1", "claims.inference_time: is -1; must be finite and over 0"),
        ("claims.rarer=1.1", "claims.rarer: is 1.1; must be over 0 and at most 1"),
        ("claims.rarer=0.0", "claims.rarer: is 0; must be over 0 and at most 1"),
        (
            "claims.gradient_underflow=1",
            "claims.gradient_underflow: is 1; must be over 0 and below 1",
        ),
        (
            "claims.train_memory=[1.1, 0.9]",
            "claims.train_memory: 1.1 is not below 0.9; give the smallest first, then the largest",
        ),
        (
            "claims.train_memory=[0.9, 0.9]",
            "claims.train_memory: 0.9 is not below 0.9; give the smallest first, then the largest",
        ),
        (
            "claims.train_memory=[0.9]",
            "claims.train_memory: lists 1 numbers; give the smallest and the largest",
        ),
        ("claims.train_memory=[0.0, 1]", "claims.train_memory[0]: is 0; must be finite and over 0"),
        (
            "claims.train_memory=0.9",
            "claims.train_memory: invalid type: floating point \"0.9\", expected a list",
        ),
    ] {
        assert_eq!(set(&[assignment]).err(), Some(format!("--set {assignment}: {message}")));
    }
    let seeds = "seeds=[3, 18446744073709551614]";
    let other = "controls=[\"other-seeds\"]";
    assert_eq!(
        set(&[seeds, other]).err(),
        Some(format!(
            "--set {other}: controls[0]: needs 2 seeds above the largest of the plan; choose smaller seeds"
        ))
    );
    assert!(set(&[&seeds.replace("614", "613"), other]).is_ok());
    let text = format!("{GOOD}[claims]\ntrain_time = \"half\"\n");
    let message =
        "small.toml:27:14: claims.train_time: invalid type: string \"half\", expected a number";
    assert_eq!(read(&text), Err(message.to_owned()));
}

#[test]
fn a_whole_number_may_be_written_with_an_exponent() {
    let plan = set(&["train.steps=1e4", "train.batch=1.0e1", "model.hidden=[1e1, 8]"]).unwrap();
    assert_eq!((plan.train.steps, plan.train.batch), (10_000, 10));
    assert!(matches!(&plan.model, ModelPlan::Cnn { hidden, .. } if *hidden == [10, 8]));
    assert_eq!(read(&GOOD.replace("steps = 20", "steps = 2e1")), read(GOOD));
    assert_eq!(read(&GOOD.replace("seeds = 2", "seeds = 2e0")), read(GOOD));
    // Where a fraction is expected, it is a number as before.
    let plan = set(&["train.optimizer.lr=1e1", "train.clip_norm=2.0"]).unwrap();
    assert_eq!(plan.train.clip_norm, Some(2.0));
    assert!(matches!(plan.train.optimizer, OptimizerPlan::AdamW { lr: 10.0, .. }));
    for (value, shown) in [("1.5", "1.5"), ("1e-1", "0.1"), ("1e20", "100000000000000000000.0")] {
        let message = format!(
            "--set train.steps={value}: train.steps: invalid type: floating point \"{shown}\", expected a whole number"
        );
        assert_eq!(set(&[&format!("train.steps={value}")]), Err(message));
    }
    assert_eq!(
        set(&["train.steps=-1e4"]).err().unwrap(),
        "--set train.steps=-1e4: train.steps: invalid value: integer \"-10000\", expected a whole number"
    );
}

/// 100 images in batches of 10: ten steps are an epoch.
#[test]
fn a_training_is_so_many_steps_or_epochs_long() {
    for (assignments, steps) in [
        (&["train.epochs=3"][..], 30),
        (&["train.epochs=1.26"], 13),
        (&["train.epochs=2", "train.accumulate=4"], 5),
        // The images that are left of an epoch are dropped.
        (&["train.epochs=2", "train.batch=30"], 6),
        (&["train.epochs=2", "train.epochs=", "train.steps=7"], 7),
    ] {
        let plan = set(assignments).unwrap();
        assert_eq!(plan.train.steps, steps, "{assignments:?}");
        assert_eq!(plan.train.schedule.warmup, steps / 10);
    }
    // The same plan, however it was said.
    assert_eq!(set(&["train.epochs=3"]), set(&["train.steps=30"]));
    assert_eq!(read(&GOOD.replace("steps = 20", "epochs = 2")), read(GOOD));
    let both = GOOD.replace("steps = 20", "steps = 20\nepochs = 2");
    let of_both = "small.toml:21:10: train.epochs: is given beside steps; give one of the two";
    assert_eq!(read(&both), Err(of_both.to_owned()));
    let neither = "small.toml:19:1: train: missing key \"steps\" or \"epochs\"";
    assert_eq!(read(&GOOD.replace("steps = 20\n", "")), Err(neither.to_owned()));
    for (assignments, message) in [
        (
            &["train.epochs=2", "train.steps=7"][..],
            "--set train.epochs=2: train.epochs: is given beside steps; give one of the two",
        ),
        (
            &["train.epochs=0"],
            "--set train.epochs=0: train.epochs: is 0; must be finite and over 0",
        ),
        (
            &["train.epochs=0.01"],
            "--set train.epochs=0.01: train.epochs: is 0.01, which makes 0 steps; must make 1 to 1000000000",
        ),
    ] {
        assert_eq!(set(assignments).err().as_deref(), Some(message));
    }
}

#[test]
fn the_images_of_files_are_counted_for_epochs_alone() {
    let cifar = "data={ kind = \"cifar10\", path = \"c\" }";
    let with = |more: &[&str], images: Result<usize, String>| {
        let set = [&[cifar][..], more].concat().iter().map(ToString::to_string).collect();
        let overrides = Overrides { set, ..Overrides::default() };
        let count = |_: &DataPlan| images.clone();
        let plan = Plan::read_counting(("small.toml", GOOD), &overrides, &count);
        plan.map(|plan| plan.train.steps).map_err(|error| error.to_string())
    };
    assert_eq!(with(&["train.epochs=2"], Ok(50_000)), Ok(10_000));
    assert_eq!(with(&[], Err("not there".to_owned())), Ok(20));
    let missing = format!("--set {cifar}: data: not there");
    assert_eq!(with(&["train.epochs=2"], Err("not there".to_owned())), Err(missing));
    let few =
        "small.toml:21:9: train.batch: is 10, but there are only 9 training samples; choose 1 to 9";
    assert_eq!(with(&["train.epochs=2"], Ok(9)), Err(few.to_owned()));
    let unknown = format!(
        "--set {cifar}: data: their number is not known, which train.epochs needs; give train.steps"
    );
    assert_eq!(set(&[cifar, "train.epochs=2"]), Err(unknown));
}

#[test]
fn a_key_without_a_value_is_removed() {
    let files = "data={ kind = \"idx\", train_images = \"i\", train_labels = \"l\", held_out = 9 }";
    let others = ["data.held_out=", "data.test_images=ti", "data.test_labels=tl"];
    let plan = set(&[&[files][..], &others].concat()).unwrap();
    let DataPlan::Idx { test, .. } = plan.data else { panic!("{:?}", plan.data) };
    assert_eq!(test, IdxTest::Files { images: "ti".into(), labels: "tl".into() });
    assert_eq!(set(&["seeds="]).unwrap().seeds, [0, 1, 2]);
    for (path, message) in [
        ("train.optimizer.lr=", "small.toml:23:1: train.optimizer: missing key \"lr\""),
        ("train.clip_norm= ", "--set train.clip_norm= : there is no train.clip_norm to remove"),
        ("nothing.at.all=", "--set nothing.at.all=: there is no nothing.at.all to remove"),
        ("seeds.one=", "--set seeds.one=: there is no seeds.one to remove"),
    ] {
        assert_eq!(set(&[path]).err().as_deref(), Some(message));
    }
}

#[test]
fn other_names_of_policies_are_the_policies() {
    let choose = |text: &str, chosen: &str| {
        let variants = Some(chosen.split(',').map(str::to_owned).collect());
        let overrides = Overrides { variants, ..Overrides::default() };
        let plan = Plan::read("small.toml", text, &overrides).map_err(|error| error.to_string())?;
        Ok::<_, String>(plan.variants)
    };
    let named = choose(GOOD, "fp32,fp16-mixed,bf16-mixed,fp16-true").unwrap();
    for same in
        ["32-true,16-mixed,bf16-mixed,16-true", "32,fp16,bf16,16-true", "fp32,16,bf16,fp16-true"]
    {
        assert_eq!(choose(GOOD, same).unwrap(), named, "{same}");
    }
    assert_eq!(
        choose(GOOD, "fp32,bf16,bf16-mixed"),
        Err("--variants: bf16-mixed is given twice".into())
    );
    // In a spec too, where a name of one's own comes first.
    let listed = GOOD.replace("\"fp16-mixed\"", "\"16-mixed\"");
    assert_eq!(read(&listed), read(GOOD));
    let baseline = |name: &str| format!("baseline = \"{name}\"\n{GOOD}");
    assert_eq!(read(&baseline("16-mixed")).unwrap().baseline, "fp16-mixed");
    assert!(read(&baseline("16-true")).is_err());
    let own = GOOD.replace("\"fp16-mixed\"", "{ name = \"bf16\", policy = \"bf16-true\" }");
    let chosen = choose(&own, "bf16").unwrap();
    assert_eq!((chosen[0].name.as_str(), chosen[0].policy), ("bf16", "bf16-true".parse().unwrap()));
}

#[test]
fn a_threshold_can_be_set_alone() {
    let plan = set(&["claims.train_time=0.6", "claims.train_memory=[0.5, 2]"]).unwrap();
    let expected =
        ClaimsPlan { train_time: 0.6, train_memory: [0.5, 2.0], ..ClaimsPlan::default() };
    assert_eq!(plan.claims, expected);
}

#[test]
fn controls_train_the_baseline_with_the_same_seeds_and_with_the_next() {
    let plan = set(&["controls=[\"same-seeds\", \"other-seeds\"]", "seeds=[4, 9, 2]"]).unwrap();
    let control = |kind, name: &str, seeds| ControlPlan {
        kind,
        variant: VariantPlan { name: name.into(), policy: "fp32".parse().unwrap() },
        seeds,
    };
    let expected = [
        control(ControlKind::SameSeeds, "fp32+same-seeds", vec![4, 9, 2]),
        control(ControlKind::OtherSeeds, "fp32+other-seeds", vec![10, 11, 12]),
    ];
    assert_eq!(plan.control_plans(), expected);
    assert_eq!(set(&[]).unwrap().control_plans(), []);
    for kind in [ControlKind::SameSeeds, ControlKind::OtherSeeds] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

#[test]
fn a_residual_network_of_another_depth_is_told_the_nearest() {
    for (depth, nearest) in
        [(0, "8"), (7, "8"), (18, "14 and 20"), (21, "20 and 26"), (1203, "1202")]
    {
        let model = format!("model={{ kind = \"resnet\", depth = {depth} }}");
        assert_eq!(
            set(&[&model]).err(),
            Some(format!(
                "--set {model}: model.depth: is {depth}; must be 6n+2, from 8 to 1202 (nearest: {nearest})"
            ))
        );
    }
    assert!(set(&["model={ kind = \"resnet\", depth = 20 }"]).is_ok());
}

#[test]
fn a_crop_cannot_miss_the_image() {
    let data = "data={ kind = \"cifar10\", path = \"c\", augment = { crop = 32 } }";
    assert_eq!(
        set(&[data]).err(),
        Some(format!("--set {data}: data.augment.crop: is 32; must be 0 to 31"))
    );
    assert!(set(&[&data.replace("32", "31")]).is_ok());
}

#[test]
fn idx_data_takes_its_test_split_from_files_or_from_what_is_held_out() {
    let idx = "data={ kind = \"idx\", train_images = \"i\", train_labels = \"l\"";
    let test = |rest: &str| {
        set(&[&format!("{idx}{rest} }}")]).map(|plan| match plan.data {
            DataPlan::Idx { test, .. } => test,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(test(", held_out = 9"), Ok(IdxTest::HeldOut(9)));
    assert_eq!(
        test(", test_images = \"ti\", test_labels = \"tl\""),
        Ok(IdxTest::Files { images: "ti".into(), labels: "tl".into() })
    );
    for both_or_neither in ["", ", test_images = \"ti\"", ", held_out = 9, test_images = \"ti\""] {
        assert_eq!(
            test(both_or_neither),
            Err(format!(
                "--set {idx}{both_or_neither} }}: data: give either test_images and test_labels, or held_out, for the \
                 test split"
            ))
        );
    }
}

#[test]
fn a_spec_without_optional_keys_becomes_a_whole_plan() {
    let expected = Plan {
        init: None,
        name: "small".into(),
        data: DataPlan::Digits { train: 100, test: 50, seed: 0 },
        model: ModelPlan::Cnn {
            blocks: vec![ConvBlock {
                channels: 4,
                kernel: 3,
                stride: 1,
                padding: 1,
                dilation: 1,
                groups: 1,
                pool: Pool::Max,
            }],
            hidden: vec![8],
            activation: Activation::Relu,
            batch_norm: false,
            dropout: 0.0,
        },
        train: TrainPlan {
            steps: 20,
            batch: 10,
            accumulate: 1,
            optimizer: OptimizerPlan::AdamW {
                lr: 1e-3,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
            },
            schedule: SchedulePlan { kind: ScheduleKind::Cosine, warmup: 2, floor: 0.0 },
            clip_norm: None,
            label_smoothing: 0.0,
            evaluate_every: None,
            cuda_graphs: true,
            checkpoint_every: CheckpointEvery::default(),
        },
        measure: MeasurePlan {
            census_every: 200,
            timing_blocks: 12,
            timing_steps: 5,
            timing_warmup: 3,
            inference_batch: 10,
            equivalence_margin: 0.005,
            error_margin: 0.05,
            serving: None,
        },
        baseline: "fp32".into(),
        variants: ["fp32", "fp16-mixed"]
            .map(|name| VariantPlan { name: name.into(), policy: name.parse().unwrap() })
            .into(),
        seeds: vec![0, 1],
        controls: Vec::new(),
        claims: ClaimsPlan::default(),
        reference: None,
    };
    assert_eq!(read(GOOD), Ok(expected));
}

#[test]
fn a_spec_with_every_key_becomes_a_whole_plan() {
    let text = r#"
name = "all"
seeds = [5, 2]
baseline = "half"
reference = "figures.toml"
controls = ["other-seeds", "same-seeds"]
[data]
kind = "cifar100"
path = "c"
augment = { crop = 4, flip = true }
[model]
kind = "mlp"
hidden = [30, 20]
activation = "gelu"
dropout = 0.25
[train]
steps = 500
batch = 7
accumulate = 3
clip_norm = 1.5
label_smoothing = 0.125
evaluate_every = 100
cuda_graphs = false
optimizer = { kind = "sgd", lr = 1, momentum = 0.9, nesterov = true, weight_decay = 5e-4 }
schedule = { kind = "linear", warmup = 9, floor = 0.1 }
[measure]
census_every = 0
timing_blocks = 0
timing_steps = 4
timing_warmup = 0
inference_batch = 6
equivalence_margin = 0.01
[claims]
train_time = 0.625
train_memory = [0.75, 1]
inference_memory = 0.5
inference_time = 1.5
rarer = 1
gradient_underflow = 0.25
[[variants]]
name = "half"
policy = "params=f32,compute=f16,reduce=f32,scale=static:128"
"#;
    let expected = Plan {
        init: None,
        name: "all".into(),
        data: DataPlan::Cifar100 { path: "c".into(), augment: Augment { crop: 4, flip: true } },
        model: ModelPlan::Mlp { hidden: vec![30, 20], activation: Activation::Gelu, dropout: 0.25 },
        train: TrainPlan {
            steps: 500,
            batch: 7,
            accumulate: 3,
            optimizer: OptimizerPlan::Sgd {
                lr: 1.0,
                momentum: 0.9,
                nesterov: true,
                weight_decay: 5e-4,
            },
            schedule: SchedulePlan { kind: ScheduleKind::Linear, warmup: 9, floor: 0.1 },
            clip_norm: Some(1.5),
            label_smoothing: 0.125,
            evaluate_every: Some(100),
            cuda_graphs: false,
            checkpoint_every: CheckpointEvery::default(),
        },
        measure: MeasurePlan {
            census_every: 0,
            timing_blocks: 0,
            timing_steps: 4,
            timing_warmup: 0,
            inference_batch: 6,
            equivalence_margin: 0.01,
            error_margin: 0.05,
            serving: None,
        },
        baseline: "half".into(),
        variants: vec![VariantPlan {
            name: "half".into(),
            policy: "params=f32,compute=f16,reduce=f32,scale=static:128".parse().unwrap(),
        }],
        seeds: vec![5, 2],
        controls: vec![ControlKind::OtherSeeds, ControlKind::SameSeeds],
        claims: ClaimsPlan {
            train_time: 0.625,
            train_memory: [0.75, 1.0],
            inference_memory: 0.5,
            inference_time: 1.5,
            rarer: 1.0,
            gradient_underflow: 0.25,
        },
        reference: Some("figures.toml".into()),
    };
    assert_eq!(read(text), Ok(expected));
}

#[test]
fn set_changes_one_value_each_and_later_ones_win() {
    let plan = set(&[
        "train.steps=40",
        "train.steps = 30",
        "train.schedule.kind=linear",
        "name=other",
        "model.hidden=[3, 4]",
        "measure.census_every=7",
    ])
    .unwrap();
    let mut expected = read(GOOD).unwrap();
    expected.name = "other".into();
    expected.train.steps = 30;
    expected.train.schedule = SchedulePlan { kind: ScheduleKind::Linear, warmup: 3, floor: 0.0 };
    expected.measure.census_every = 7;
    if let ModelPlan::Cnn { hidden, .. } = &mut expected.model {
        *hidden = vec![3, 4];
    }
    assert_eq!(plan, expected);
}

#[test]
fn a_bad_set_is_named_as_it_was_typed() {
    for (assignment, message) in [
        ("train.steps", "expected key=value, such as train.steps=100"),
        ("=3", "expected a key's path before the =, such as train.steps"),
        ("train..steps=3", "expected a key's path before the =, such as train.steps"),
        ("name.first=3", "name is not a table"),
        (
            "train.step=3",
            "train.step: unknown key \"step\" (did you mean train.steps?); known: steps, epochs, batch, accumulate, \
             optimizer, schedule, clip_norm, label_smoothing, evaluate_every, cuda_graphs, checkpoint_every",
        ),
        (
            "measure.every.step=3",
            "measure.every: unknown key \"every\"; known: census_every, timing_blocks, timing_steps, timing_warmup, \
             inference_batch, equivalence_margin, error_margin, serving",
        ),
        ("train.steps=ten", "train.steps: invalid type: string \"ten\", expected a whole number"),
        ("train.batch=0", "train.batch: is 0; must be 1 to 65536"),
    ] {
        assert_eq!(
            set(&["seeds=1", assignment]).err(),
            Some(format!("--set {assignment}: {message}"))
        );
    }
}

/// `PyTorch` 2.15 refuses the same: "Expected more than 1 value per channel when training".
#[test]
fn batch_norm_of_one_value_a_channel_is_refused() {
    let message = |block: usize| {
        format!(
            "train.batch: is 1, and the convolution of model.blocks[{block}] leaves 1 × 1 pixels of an image: batch norm \
             needs more than one value a channel; choose 2 or more"
        )
    };
    let whole = "{channels=4,kernel=28}";
    let strided = "{channels=4,kernel=1,stride=28}";
    // 28 to 26 by the kernel, to 13 by pooling; its pool leaves 1 × 1, but batch norm comes before it.
    let pooled = "{channels=4,pool=\"global\"}";
    let (first, second) = ("{channels=4,pool=\"max\"}", "{channels=4,kernel=13}");
    for (batch, batch_norm, blocks, refused) in [
        (1, true, whole.to_owned(), Some(0)),
        (1, true, strided.to_owned(), Some(0)),
        (1, true, format!("{first},{second}"), Some(1)),
        (2, true, whole.to_owned(), None),
        (1, false, whole.to_owned(), None),
        (1, true, pooled.to_owned(), None),
    ] {
        let typed = [
            format!("model.blocks=[{blocks}]"),
            format!("model.batch_norm={batch_norm}"),
            format!("train.batch={batch}"),
        ];
        let refusal = set(&typed.each_ref().map(String::as_str)).err();
        let expected = refused.map(|block| format!("--set {}: {}", typed[2], message(block)));
        assert_eq!(refusal, expected, "{typed:?}");
    }
}

#[test]
fn an_error_in_the_file_keeps_its_place_beside_overrides() {
    let overrides =
        Overrides { set: vec!["seeds=1".into(), "train.steps=5".into()], ..Overrides::default() };
    let text = GOOD.replace("batch = 10", "batch = 0");
    assert_eq!(
        Plan::read("small.toml", &text, &overrides).map_err(|error| error.to_string()),
        Err("small.toml:21:9: train.batch: is 0; must be 1 to 65536".into())
    );
}

#[test]
fn variants_and_seeds_of_the_command_line_replace_those_of_the_spec() {
    let choose = |names: &[&str], seeds| {
        let overrides = Overrides {
            variants: Some(names.iter().map(ToString::to_string).collect()),
            seeds,
            ..Overrides::default()
        };
        Plan::read("small.toml", GOOD, &overrides)
            .map(|plan| {
                let names: Vec<_> = plan.variants.into_iter().map(|v| v.name).collect();
                (names.join(" "), plan.baseline, plan.seeds)
            })
            .map_err(|error| error.to_string())
    };
    let chosen = |names: &str, baseline: &str, seeds| Ok((names.into(), baseline.into(), seeds));
    assert_eq!(choose(&["bf16-true", "fp32"], None), chosen("bf16-true fp32", "fp32", vec![0, 1]));
    assert_eq!(
        choose(&["fp16-mixed", "tf32"], Some(1)),
        chosen("fp16-mixed tf32", "fp16-mixed", vec![0])
    );
    assert_eq!(
        choose(&["fp9"], None),
        Err(
            "--variants: unknown variant \"fp9\"; in the spec: fp32, fp16-mixed; policies: fp32, tf32, fp16-mixed, \
             bf16-mixed, fp16-true, bf16-true"
                .into()
        )
    );
    assert_eq!(choose(&["fp32", "fp32"], None), Err("--variants: fp32 is given twice".into()));
    assert_eq!(choose(&["fp32"], Some(0)), Err("--seeds: is 0; must be 1 to 10000".into()));
}

#[test]
fn every_spec_in_experiments_is_a_plan() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = String::from_utf8(crate::store::read(&path).unwrap()).unwrap();
        let plan = Plan::read(&path.display().to_string(), &text, &Overrides::default());
        names.push(plan.unwrap().name);
    }
    names.sort();
    let expected = [
        "charlm",
        "ci",
        "cifar-resnet",
        "digits",
        "fp16-overflow",
        "gpu-mlp",
        "gpu-resnet",
        "imdb-distilbert",
        "imdb-encoder",
        "imdb-finetune",
        "mnist-cnn",
        "regression",
        "serve-llama",
        "wide-mlp",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_plan_survives_the_results_file() {
    let plan = Plan::read("default.toml", DEFAULT, &Overrides::default()).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
}

#[test]
fn a_key_of_many_dots_exhausts_no_stack() {
    let dots = "a.".repeat(20_000) + "a=1";
    let start = &dots[..200];
    assert_eq!(
        set(&[&dots]).err().as_deref(),
        Some(&*format!("--set {start}…: expected a key's path before the =, such as train.steps"))
    );
    let error = set(&["a.a.a.a.a.a.a.a=1"]).unwrap_err();
    assert!(error.contains("unknown key \"a\"; known: name, data, model"), "{error}");
    let error = read(&format!("{dots}\n{GOOD}")).unwrap_err();
    assert_eq!(error, "small.toml: too many tables within each other; a spec has at most four");
    // As deep as the TOML parser allows: 79 keys in each of 79 tables.
    let keys = ["a"; 79].join(".");
    let deep = format!("{keys}={}", format!("{{{keys}=").repeat(78)) + "1" + &"}".repeat(78);
    let error = read(&format!("{deep}\n{GOOD}")).unwrap_err();
    assert!(error.contains("unknown key \"a\""), "{error}");
    let error = set(&[&format!("train.{deep}")]).unwrap_err();
    assert!(error.starts_with("--set train.a.a."), "{error}");
    let error = set(&[&format!("train.steps={}", &deep[keys.len() + 1..])]).unwrap_err();
    assert!(error.starts_with("--set train.steps={a.a."), "{error}");
    // A list of seeds is looked at whole before it is known to be none.
    let error = set(&[&format!("seeds={}", &deep[keys.len() + 1..])]).unwrap_err();
    assert!(error.contains("expected a number of seeds"), "{error}");
}
