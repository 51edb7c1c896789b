//! Tests of event files.

use prost::Message as _;

use super::*;
use crate::record::{Evaluation, Role, Skip};
use crate::report::fixture;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The bytes by TensorBoard 2.21:
/// ```python
/// from io import BytesIO
/// from tensorboard.summary.writer.record_writer import RecordWriter
/// file = BytesIO()
/// RecordWriter(file).write(b"mantissa")
/// print(file.getvalue().hex())
/// ```
#[test]
fn a_record_is_framed_as_tensorboard_frames_it() {
    assert_eq!(hex(&file::framed(b"mantissa")), "0800000000000000ff86240f6d616e7469737361b944a4ed");
}

/// The event by TensorBoard 2.21:
/// ```python
/// from tensorboard.compat.proto.event_pb2 import Event
/// from tensorboard.compat.proto.histogram_pb2 import HistogramProto
/// from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
/// plugin = {"plugin_name": "histograms"}
/// metadata = SummaryMetadata(plugin_data=plugin, summary_description="d", data_class="DATA_CLASS_TENSOR")
/// histo = HistogramProto(min=-1, max=1, num=3, sum=0.5, sum_squares=0.75, bucket_limit=[0, 1], bucket=[1, 2])
/// values = [Summary.Value(tag="s", simple_value=0), Summary.Value(tag="h", metadata=metadata, histo=histo)]
/// print(Event(wall_time=1.5, step=7, summary=Summary(value=values)).SerializeToString(deterministic=True).hex())
/// ```
#[test]
fn a_message_is_encoded_as_tensorboard_encodes_it() {
    let histogram = HistogramProto {
        min: -1.0,
        max: 1.0,
        num: 3.0,
        sum: 0.5,
        sum_squares: 0.75,
        bucket_limit: vec![0.0, 1.0],
        bucket: vec![1.0, 2.0],
    };
    let metadata = SummaryMetadata {
        plugin_data: Some(PluginData { plugin_name: "histograms".to_owned() }),
        summary_description: "d".to_owned(),
        data_class: 2,
    };
    let values = vec![
        Value { tag: "s".to_owned(), metadata: None, datum: Some(Datum::Scalar(0.0)) },
        Value {
            tag: "h".to_owned(),
            metadata: Some(metadata),
            datum: Some(Datum::Histogram(histogram)),
        },
    ];
    let what = Some(What::Summary(Summary { value: values }));
    let event = Event { wall_time: 1.5, step: 7, what };
    let theirs = "09000000000000f83f10072a770a080a017315000000000a6b0a01682a5109000000000000f0bf11000000000000f03f19000000000000084021000000000000e03f29000000000000e83f32100000000000000000000000000000f03f3a10000000000000f03f00000000000000404a130a0c0a0a686973746f6772616d731a01642002";
    assert_eq!(hex(&event.encode_to_vec()), theirs);
}

/// The events in a file.
fn decoded(mut file: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        let (framed, rest) = file.split_at(length + 16);
        let data = &framed[12..12 + length];
        assert_eq!(framed, file::framed(data));
        events.push(Event::decode(data).unwrap());
        file = rest;
    }
    events
}

/// A short run in which everything happens.
fn eventful() -> RunRecord {
    let mut record = fixture::loaded().records.swap_remove(0);
    record.loss = vec![Some(2.5), None, Some(2.0), Some(1e300), Some(0.0)];
    record.evaluations = vec![
        Evaluation {
            step: 2,
            accuracy: Some(0.25),
            squared_error: None,
            perplexity: None,
            loss: None,
        },
        Evaluation {
            step: 5,
            accuracy: Some(0.0),
            squared_error: None,
            perplexity: None,
            loss: Some(1.5),
        },
    ];
    record.scale = vec![(0, 1024.0), (2, 512.0), (3, 256.0)];
    record.skips = [1, 2].map(|step| Skip { step, layer: "hidden.0".to_owned() }).to_vec();
    record.census_steps = vec![0, 3];
    record.census[0].layer = "hidden/0 ü".to_owned();
    record.census[0].role = Role::ActivationGradients;
    record
}

/// Each value on a line: step, tag, value.
fn lines(events: &[Event]) -> String {
    let line = |event: &Event| match event.what.as_ref().unwrap() {
        What::FileVersion(version) => vec![format!("{} {version}", event.step)],
        What::Summary(summary) => {
            let datum = |value: &Value| match value.datum.as_ref().unwrap() {
                Datum::Scalar(scalar) => scalar.to_string(),
                Datum::Histogram(histogram) => {
                    format!("{histogram:?} {:?}", value.metadata.as_ref().unwrap())
                }
            };
            let values = summary.value.iter();
            values.map(|value| format!("{} {} {}", event.step, value.tag, datum(value))).collect()
        }
    };
    events.iter().flat_map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_record_becomes_events_in_the_order_of_their_steps() {
    let started = "2026-01-02T03:04:05Z";
    let events = decoded(&event_file(&eventful(), started));
    assert!(events.iter().all(|event| event.wall_time == 1_767_323_045.0));
    // As text: NaN equals nothing.
    assert_eq!(lines(&events), lines(&super::events(&eventful(), started)));
    insta::assert_snapshot!(lines(&events), @r##"
    0 brain.Event:2
    0 loss/train 2.5
    0 loss_scale 1024
    0 skipped_steps 0
    1 loss/train NaN
    1 loss_scale 1024
    1 skipped_steps 1
    2 loss/train 2
    2 loss/test NaN
    2 accuracy/test 0.25
    2 loss_scale 512
    2 skipped_steps 2
    3 loss/train inf
    3 loss_scale 256
    3 exponents/activation_gradients/hidden/0 ü HistogramProto { min: -19.0, max: -16.0, num: 195.0, sum: -3327.5, sum_squares: 56838.75, bucket_limit: [-18.0, -17.0, -16.0], bucket: [5.0, 100.0, 90.0] } SummaryMetadata { plugin_data: Some(PluginData { plugin_name: "histograms" }), summary_description: "log2 |value| by binade, before rounding, summed over the census steps. Left out: 10 zeros and 0 infinities or NaNs.", data_class: 2 }
    3 exponents/weight_gradients/hidden.0 HistogramProto { min: -19.0, max: -16.0, num: 195.0, sum: -3327.5, sum_squares: 56838.75, bucket_limit: [-18.0, -17.0, -16.0], bucket: [5.0, 100.0, 90.0] } SummaryMetadata { plugin_data: Some(PluginData { plugin_name: "histograms" }), summary_description: "log2 |value| by binade, before rounding, summed over the census steps. Left out: 10 zeros and 0 infinities or NaNs.", data_class: 2 }
    3 exponents/activations/hidden.1 HistogramProto { min: -19.0, max: -16.0, num: 195.0, sum: -3327.5, sum_squares: 56838.75, bucket_limit: [-18.0, -17.0, -16.0], bucket: [5.0, 100.0, 90.0] } SummaryMetadata { plugin_data: Some(PluginData { plugin_name: "histograms" }), summary_description: "log2 |value| by binade, before rounding, summed over the census steps. Left out: 10 zeros and 0 infinities or NaNs.", data_class: 2 }
    4 loss/train 0
    4 loss_scale 256
    4 skipped_steps 2
    5 loss/test 1.5
    5 accuracy/test 0
    "##);
}

#[test]
fn a_run_without_a_step_leaves_the_version_alone() {
    let mut record = eventful();
    record.loss.clear();
    record.evaluations.clear();
    record.scale.clear();
    record.skips.clear();
    record.census.clear();
    record.census_steps.clear();
    assert_eq!(lines(&events(&record, "")), "0 brain.Event:2");
}

#[test]
fn a_level_is_there_at_its_first_and_its_last_step() {
    for (levels, steps, points) in [
        (&[][..], 9, &[][..]),
        (&[(0, 1.0)], 0, &[]),
        (&[(0, 1.0)], 1, &[(0, 1.0)]),
        (&[(0, 1.0)], 9, &[(0, 1.0), (8, 1.0)]),
        (&[(0, 0.0), (0, 1.0)], 9, &[(0, 1.0), (8, 1.0)]),
        (&[(0, 0.0), (1, 1.0), (8, 2.0)], 9, &[(0, 0.0), (1, 1.0), (7, 1.0), (8, 2.0)]),
        (&[(0, 0.0), (9, 1.0)], 9, &[(0, 0.0), (8, 0.0)]),
    ] {
        assert_eq!(step_line(levels, steps), points, "{levels:?}, {steps} steps");
    }
}

#[test]
fn a_histogram_counts_what_has_an_exponent() {
    let exponents = |first, bins: &[u64]| ExponentHistogram {
        zeros: 7,
        non_finite: 3,
        first,
        bins: bins.to_vec(),
    };
    for (given, expected) in [
        (exponents(0, &[]), None),
        (exponents(-3, &[0, 0]), None),
        // 2 values about 2^-1.5, 1 about 2^0.5.
        (
            exponents(-3, &[0, 2, 0, 1, 0]),
            Some(HistogramProto {
                min: -2.0,
                max: 1.0,
                num: 3.0,
                sum: -2.5,
                sum_squares: 4.75,
                bucket_limit: vec![-1.0, 0.0, 1.0],
                bucket: vec![2.0, 0.0, 1.0],
            }),
        ),
        (
            exponents(i32::MAX, &[4]),
            Some(HistogramProto {
                min: 2_147_483_647.0,
                max: 2_147_483_648.0,
                num: 4.0,
                sum: 4.0 * 2_147_483_647.5,
                sum_squares: 4.0 * 2_147_483_647.5 * 2_147_483_647.5,
                bucket_limit: vec![2_147_483_648.0],
                bucket: vec![4.0],
            }),
        ),
    ] {
        assert_eq!(binades(&given), expected, "{given:?}");
    }
}

/// Expected by `date -u -d 2024-02-29T23:59:59Z +%s`.
#[test]
fn the_start_is_parsed_or_0() {
    for (started, expected) in [
        ("1970-01-01T00:00:00Z", 0),
        ("2000-12-31T12:00:00Z", 978_264_000),
        ("2024-02-29T23:59:59Z", 1_709_251_199),
        ("2026-01-02T03:04:05Z", 1_767_323_045),
        ("2100-03-01T00:00:00Z", 4_107_542_400),
        ("", 0),
        ("yesterday", 0),
        ("1969-12-31T23:59:59Z", 0),
        ("2023-02-29T00:00:00Z", 0),
        ("2026-00-01T00:00:00Z", 0),
        ("2026-13-01T00:00:00Z", 0),
        ("2026-01-00T00:00:00Z", 0),
        ("2026-01-02T24:00:00Z", 0),
        ("2026-01-02T00:60:00Z", 0),
        ("2026-01-02T03:04:05", 0),
        ("+026-01-02T03:04:05Z", 0),
    ] {
        assert_eq!(seconds(started), expected, "{started}");
    }
}

#[test]
fn an_event_file_is_named_after_the_start() {
    assert_eq!(file_name("2026-01-02T03:04:05Z"), "events.out.tfevents.1767323045.mantissa");
    assert_eq!(file_name("?"), "events.out.tfevents.0.mantissa");
}
