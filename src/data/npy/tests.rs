use std::io::Write as _;

use super::*;
use crate::spec::TestShare;

/// An `.npy` file of version 1, as NumPy's documentation of the format says.
fn npy(descr: &str, fortran_order: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header =
        format!("{{'descr': {descr}, 'fortran_order': {fortran_order}, 'shape': {shape}, }}\n");
    let length = (header.len() as u16).to_le_bytes();
    [MAGIC, &[1, 0], &length, header.as_bytes(), values].concat()
}

fn floats(shape: &str, values: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("'<f4'", "False", shape, &bytes)
}

fn whole(shape: &str, values: &[i64]) -> Vec<u8> {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    npy("'<i8'", "False", shape, &bytes)
}

/// Loads the four arrays; an error without the folder's name.
fn loaded(arrays: [Vec<u8>; 4], task: TableTask) -> Result<Dataset, String> {
    let folder = tempfile::tempdir().unwrap();
    let names = ["x", "y", "test_x", "test_y"];
    let [x, y, inputs, targets] = names.map(|name| folder.path().join(name));
    for (path, bytes) in [&x, &y, &inputs, &targets].into_iter().zip(arrays) {
        store::write(path, &bytes).unwrap();
    }
    let source = Source { archive: None, task };
    let data = load(source, [&x, &y], &NpyTest::Files { inputs, targets });
    let folder = format!("{}/", folder.path().display());
    data.map_err(|error| error.to_string().replace(&folder, ""))
}

#[test]
fn arrays_become_pixels_or_values_and_labels_or_targets() {
    let pixels = npy("'|u1'", "False", "(2, 1, 2)", &[1, 2, 3, 4]);
    let test = npy("'|u1'", "False", "(1, 1, 2)", &[5, 6]);
    let labels = npy("'<i4'", "False", "(2,)", &[1, 0, 0, 0, 0, 0, 0, 0]);
    let data =
        loaded([pixels, labels, test, whole("(1,)", &[1])], TableTask::Classification).unwrap();
    assert_eq!((data.shape, data.outputs), ([1, 1, 2], 2));
    assert_eq!((data.train.pixels(), data.train.labels()), (&[1, 2, 3, 4][..], &[1, 0][..]));
    assert_eq!((data.test.pixels(), data.test.labels()), (&[5, 6][..], &[1][..]));

    let doubles: Vec<u8> = [0.5_f64, -1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let doubles = npy("'<f8'", "False", "(1, 2)", &doubles);
    let targets = floats("(1, 3)", &[1.0, 2.0, 3.0]);
    let arrays = [doubles, targets, whole("(1, 2)", &[7, -8]), floats("(1, 3)", &[4.0; 3])];
    let data = loaded(arrays, TableTask::Regression).unwrap();
    assert_eq!((data.shape, data.outputs), ([2, 1, 1], 3));
    assert_eq!(data.train.inputs, Inputs::Values(vec![0.5, -1.0]));
    assert_eq!(data.train.targets, Targets::Values(vec![1.0, 2.0, 3.0]));
    assert_eq!(data.test.inputs, Inputs::Values(vec![7.0, -8.0]));
    assert_eq!(data.test.targets, Targets::Values(vec![4.0; 3]));
}

#[test]
fn members_of_an_archive_are_arrays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data.npz");
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default();
    // numpy.savez stores members, numpy.savez_compressed deflates them.
    let deflated = stored.compression_method(zip::CompressionMethod::Deflated);
    let stored = stored.compression_method(zip::CompressionMethod::Stored);
    for (name, options, bytes) in [
        ("x.npy", stored, floats("(4,)", &[1.0, 2.0, 3.0, 4.0])),
        ("y.npy", deflated, whole("(4,)", &[0, 1, 0, 1])),
    ] {
        zip.start_file(name, options).unwrap();
        zip.write_all(&bytes).unwrap();
    }
    store::write(&path, &zip.finish().unwrap().into_inner()).unwrap();
    let source = Source { archive: Some(&path), task: TableTask::Classification };
    let share = NpyTest::Share(TestShare { share: 0.25, seed: 0 });
    let data = load(source, [Path::new("x"), Path::new("y")], &share).unwrap();
    assert_eq!((data.shape, data.outputs, data.samples()), ([1, 1, 1], 2, [3, 1]));
    let error = load(source, [Path::new("x"), Path::new("z")], &share).unwrap_err();
    let error = error.to_string();
    assert!(
        error.ends_with("data.npz: has no array \"z\"; expected one of \"x\" and \"y\""),
        "{error}"
    );
    store::write(&path, b"PK no archive").unwrap();
    let error = load(source, [Path::new("x"), Path::new("y")], &share).unwrap_err();
    assert!(error.to_string().contains("data.npz: cannot be read ("), "{error}");
}

#[expect(clippy::too_many_lines, reason = "a table")]
#[test]
fn what_is_no_array_is_named() {
    let (x, y) = (floats("(2, 1)", &[1.0, 2.0]), whole("(2,)", &[0, 1]));
    let with = |place: usize, other: Vec<u8>| {
        let mut arrays = [x.clone(), y.clone(), x.clone(), y.clone()];
        arrays[place] = other;
        arrays
    };
    let (classes, numbers) = (TableTask::Classification, TableTask::Regression);
    let table = [
        (
            with(0, npy("'<f2'", "False", "(2, 1)", &[0; 4])),
            classes,
            "x: values of type <f2; expected float32, float64, uint8, int32 or int64, little-endian; use astype",
        ),
        (
            with(0, npy("[('a', '<f4')]", "False", "(2,)", &[0; 8])),
            classes,
            "x: values of type [('a', '<f4')]; expected float32, float64, uint8, int32 or int64, little-endian; use astype",
        ),
        (
            with(2, npy("'<f4'", "True", "(2, 1)", &[0; 8])),
            classes,
            "test_x: values in Fortran order; expected C order; use numpy.ascontiguousarray",
        ),
        (
            with(0, x[..x.len() - 3].to_vec()),
            classes,
            "x: cut short: 5 bytes after its header; expected 8 bytes for 2 × 1 float32",
        ),
        (
            with(0, [x.clone(), vec![0]].concat()),
            classes,
            "x: more than 8 bytes after its header; expected 8 bytes for 2 × 1 float32",
        ),
        (with(0, x[..20].to_vec()), classes, "x: cut short in its header; expected an .npy file"),
        (with(0, vec![]), classes, "x: cut short in its header; expected an .npy file"),
        (
            with(0, b"a,b\n1,2\n3,4\n".to_vec()),
            classes,
            "x: no array of NumPy; expected an .npy file, as numpy.save writes it",
        ),
        (
            with(0, npy("'<f4'", "False", "(2, 1", &[])),
            classes,
            "x: header \"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, }\"; expected a dictionary with descr, \
             fortran_order and shape",
        ),
        (
            with(0, npy("'<f4'", "False", "(4294967296, 4294967296)", &[])),
            classes,
            "x: shape 4294967296 × 4294967296; expected at most 1099511627776 values",
        ),
        (
            with(0, floats("(1, 1)", &[1.0])),
            classes,
            "x and y do not belong together: 1 sample and 2 targets",
        ),
        (
            with(2, floats("(2, 2)", &[0.0; 4])),
            classes,
            "x and test_x do not belong together: samples of 1 × 1 × 1 and of 2 × 1 × 1",
        ),
        (
            with(2, npy("'|u1'", "False", "(2, 1)", &[0; 2])),
            classes,
            "x and test_x do not belong together: values of float32 and of uint8",
        ),
        (
            with(0, floats("()", &[0.0])),
            classes,
            "x and y do not belong together: 1 sample and 2 targets",
        ),
        (
            with(0, floats("(2, 1, 1, 1, 1)", &[0.0; 2])),
            classes,
            "x: shape 2 × 1 × 1 × 1 × 1; expected samples × columns, samples × height × width or samples × channels × \
             height × width",
        ),
        (
            with(0, floats("(2, 1)", &[0.0, f32::NAN])),
            classes,
            "x: value 1, counted from 0, is NaN; expected numbers that f32 holds",
        ),
        (
            with(1, whole("(2,)", &[0, -1])),
            classes,
            "y: the label of sample 1, counted from 0, is -1; expected 0 to 65535",
        ),
        (
            with(3, whole("(2,)", &[0, 2])),
            classes,
            "test_y: the label of sample 1, counted from 0, is 2; expected 0 to 1",
        ),
        (
            with(1, floats("(2,)", &[0.0; 2])),
            classes,
            "y: values of type float32; expected labels as uint8, int32 or int64; numbers need task = \"regression\"",
        ),
        (
            with(1, whole("(2, 1)", &[0; 2])),
            classes,
            "y: shape 2 × 1; expected one label for each sample",
        ),
        (
            with(3, whole("(2, 2)", &[0; 4])),
            numbers,
            "test_y: shape 2 × 2; expected 1 values for each sample, as in training",
        ),
        (
            with(1, whole("(2, 1, 1)", &[0; 2])),
            numbers,
            "y: shape 2 × 1 × 1; expected samples, or samples × values of a target, 1 to 65536",
        ),
    ];
    for (arrays, task, message) in table {
        assert_eq!(loaded(arrays, task).unwrap_err(), message);
    }
}
