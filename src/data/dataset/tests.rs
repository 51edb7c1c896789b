use super::*;

/// Training and test images with labels.
fn labelled(shape: [usize; 3], outputs: usize, [train, test]: [(&[u8], &[u32]); 2]) -> Dataset {
    let split = |(pixels, labels): (&[u8], &[u32])| {
        Images { pixels: pixels.to_vec(), labels: labels.to_vec() }.into()
    };
    Dataset { shape, outputs, train: split(train), test: split(test) }
}

/// Rows of two columns with two target values each.
fn table(train: (&[f32], &[f32]), test: (&[f32], &[f32])) -> Result<Dataset, DataError> {
    let split = |(inputs, targets): (&[f32], &[f32])| Split {
        inputs: Inputs::Values(inputs.to_vec()),
        targets: Targets::Values(targets.to_vec()),
    };
    Dataset::new([2, 1, 1], 2, split(train), split(test))
}

// Python: import hashlib, struct
//   q = lambda *n: struct.pack(f"<{len(n)}Q", *n)
//   hashlib.sha256(b"mantissa data 1" + q(1, 2, 2, 3) + q(2) + bytes(range(8)) + q(0, 2) + q(1) + bytes([255, 0, 7, 9])
//       + q(1)).hexdigest()
#[test]
fn the_digest_is_that_of_everything_in_a_stated_order() {
    let data =
        labelled([1, 2, 2], 3, [(&(0..8).collect::<Vec<_>>(), &[0, 2]), (&[255, 0, 7, 9], &[1])]);
    let facts = data.facts();
    assert_eq!(facts.digest, "0a4656d17e367b0270bdd800f7d4ab38674e04798f255c295764ed69a4f9d695");
    assert_eq!((facts.train, facts.test, facts.classes, facts.shape), (2, 1, 3, [1, 2, 2]));
    let changes: [fn(&mut Dataset); 8] = [
        |data| data.train.targets = Targets::Labels(vec![0, 1]),
        |data| data.test.targets = Targets::Labels(vec![0]),
        |data| data.train.inputs = Inputs::Pixels(vec![0, 1, 2, 3, 4, 5, 6, 0]),
        |data| data.test.inputs = Inputs::Pixels(vec![254, 0, 7, 9]),
        |data| data.outputs = 4,
        |data| data.shape = [1, 4, 1],
        |data| data.train.inputs = Inputs::Values((0_u8..8).map(f32::from).collect()),
        |data| data.train.targets = Targets::Values(vec![0.0; 6]),
    ];
    for change in changes {
        let mut other = data.clone();
        change(&mut other);
        assert_ne!(other.facts().digest, facts.digest);
    }
}

#[test]
fn classes_without_samples_are_noted() {
    let check = |classes, train: &[u32], test: &[u32], expected: &[&str]| {
        let data = labelled([1, 1, 1], classes, [(&[], train), (&[], test)]);
        assert_eq!(data.notes(), expected);
    };
    check(3, &[0, 1, 2], &[1], &[]);
    check(
        256,
        &[0, 1, 2, 3, 255],
        &[0],
        &["Labels 4 to 254 do not occur in the data, yet count among its 256 classes."],
    );
    // Labels that begin at 1, as those of EMNIST's letters.
    check(
        4,
        &[1, 2],
        &[3, 1],
        &[
            "Label 0 does not occur in the data, yet counts among its 4 classes.",
            "Label 3 occurs in test images only: no training image shows what to learn.",
        ],
    );
    check(
        10,
        &[0, 4, 9],
        &[6, 7],
        &[
            "Labels 1 to 3, 5 and 8 do not occur in the data, yet count among its 10 classes.",
            "Labels 6 and 7 occur in test images only: no training image shows what to learn.",
        ],
    );
    let even: Vec<u32> = (0..1000).map(|i| 2 * i).collect();
    check(
        1999,
        &even,
        &[0],
        &[
            "Labels 1, 3, 5, 7, 9, 11, 13, 15 and 991 others do not occur in the data, yet count among its 1,999 classes.",
        ],
    );
}

// Python: import hashlib, struct
//   q = lambda *n: struct.pack(f"<{len(n)}Q", *n)
//   f = lambda *n: struct.pack(f"<{len(n)}f", *n)
//   hashlib.sha256(b"mantissa data 2" + b"values" + b"targets" + q(2, 1, 1, 2) + q(1) + f(0.5, -1) + f(3, 4)
//       + q(2) + f(1, 2, 3, 4) + f(5, 6, 7, 8)).hexdigest()
#[test]
fn values_and_targets_have_a_digest_of_their_own() {
    let (inputs, targets) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]);
    let data = table((&[0.5, -1.0], &[3.0, 4.0]), (&inputs, &targets)).unwrap();
    let facts = data.facts();
    assert_eq!(facts.digest, "866cf1fcf23b075cd5749617371695cd49c25db1723f8987f5c46077c4061503");
    assert_eq!((facts.train, facts.test, facts.shape), (1, 2, [2, 1, 1]));
    assert_eq!((facts.classes, facts.target_values), (0, Some(2)));
}

#[test]
fn parts_that_do_not_fit_each_other_are_errors() {
    let good: (&[f32], &[f32]) = (&[0.0; 4], &[0.0; 4]);
    let rows: [(_, (&[f32], &[f32]), &str); 6] = [
        (
            good,
            (&[0.0; 3], &[0.0; 4]),
            "test split: 3 input values do not belong to 4 target values of 2 each: a sample is 2 × 1 × 1",
        ),
        (
            (&[0.0; 4], &[0.0; 3]),
            good,
            "train split: 4 input values do not belong to 3 target values of 2 each: a sample is 2 × 1 × 1",
        ),
        (good, (&[], &[]), "the test split has no samples: give it at least 1"),
        (
            (&[0.0, 0.0, 0.0, f32::NAN], &[0.0; 4]),
            good,
            "train split, sample 1: input value 1 is NaN",
        ),
        (
            good,
            (&[0.0; 4], &[0.0, 0.0, f32::INFINITY, 0.0]),
            "test split, sample 1: target value 0 is inf",
        ),
        (
            (&[], &[0.0; 2]),
            good,
            "train split: 0 input values do not belong to 2 target values of 2 each: a sample is 2 × 1 × 1",
        ),
    ];
    for (train, test, message) in rows {
        assert_eq!(table(train, test).unwrap_err().to_string(), message);
    }
    let images = labelled([1, 1, 1], 2, [(&[1, 2], &[0, 1]), (&[3], &[2])]);
    for (change, message) in [
        (
            (|_| ()) as fn(&mut Dataset),
            "test split, sample 0: label 2 is not below 2, the number of classes",
        ),
        (|data| data.outputs = 0, "0 classes: give at least 1"),
        (|data| data.shape[1] = 0, "a sample of 1 × 0 × 1 holds nothing: give 1 or more each"),
        (
            |data| data.test.targets = Targets::Values(vec![0.0, 0.0]),
            "the train and the test split are of different kinds: give both pixels or both values, and both labels \
             or both values as targets",
        ),
    ] {
        let mut images = images.clone();
        change(&mut images);
        assert_eq!(images.check().unwrap_err().to_string(), message);
    }
}
