//! What `mantissa doctor` says: the environment of a results file, for people.

use std::fmt::Write as _;

use candle_core::Device;

use crate::precision::{Format, Policy};
use crate::record::Environment;
use crate::train;

/// The environment, one fact a line, then what the build makes of the GPUs, and how fast products are.
pub(super) fn page(environment: &Environment, gpus: &[String], peaks: &[String]) -> String {
    let Environment { device, device_name, threads, logical_cpus, version, build, .. } =
        environment;
    let commit = environment.git.as_deref().unwrap_or("no commit");
    let memory = match environment.memory_total {
        Some(bytes) => bytes.to_string(),
        None => "unknown".to_owned(),
    };
    let mut facts = vec![
        ("version", format!("mantissa {version}, {commit}")),
        ("build", build.clone()),
        ("system", environment.os.clone()),
        ("device", format!("{device}: {device_name}")),
        ("threads", format!("{threads} of {logical_cpus} logical processors")),
        ("memory", memory),
        ("features", environment.cpu_features.join(" ")),
    ];
    let lists = [
        ("products", environment.product_paths.as_slice()),
        ("note", &environment.notes),
        ("cuda", gpus),
        ("peak", peaks),
    ];
    for (label, lines) in lists {
        facts.extend(lines.iter().map(|line| (label, line.clone())));
    }
    facts.iter().fold(String::new(), |mut page, (label, fact)| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "{label:<10}{fact}");
        page
    })
}

/// How fast a large product is in each format that the device computes in, a line each.
pub(super) fn peaks(device: &Device) -> candle_core::Result<Vec<String>> {
    let named = Policy::NAMED.map(|(_, policy)| policy).into_iter();
    let native = named.filter(|policy| !policy.is_emulated(device.is_cuda()));
    let mut formats: Vec<Format> = Vec::new();
    for policy in native {
        if !formats.contains(&policy.compute) {
            formats.push(policy.compute);
        }
    }
    let line = |format: Format| Ok(format!("{format}: {}", train::product_peak(format, device)?));
    formats.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Bytes;

    #[test]
    fn every_fact_has_its_line() {
        let environment = Environment {
            device: "cpu".into(),
            device_name: "Model 1".into(),
            threads: 2,
            logical_cpus: 4,
            memory_total: Some(Bytes(8 << 30)),
            cpu_features: vec!["avx2".into(), "fma".into()],
            product_paths: vec!["f32: FMA".into(), "bf16: widened to f32 (FMA)".into()],
            os: "Linux, x86_64".into(),
            version: "0.1.0".into(),
            git: None,
            source: String::new(),
            build: "rustc 1.95.0, release".into(),
            started: "2026-01-01T00:00:00Z".into(),
            notes: vec!["slow".into()],
            gpu: None,
        };
        assert_eq!(
            page(&environment, &["not in this build".into()], &["f32: 412 GFLOP/s".into()]),
            "version   mantissa 0.1.0, no commit\n\
             build     rustc 1.95.0, release\n\
             system    Linux, x86_64\n\
             device    cpu: Model 1\n\
             threads   2 of 4 logical processors\n\
             memory    8.00 GiB\n\
             features  avx2 fma\n\
             products  f32: FMA\n\
             products  bf16: widened to f32 (FMA)\n\
             note      slow\n\
             cuda      not in this build\n\
             peak      f32: 412 GFLOP/s\n"
        );
    }
}
