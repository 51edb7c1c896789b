//! What is said where nothing was trained: which format is the fastest, and how far its tokens are from FP32's.

use crate::claims::wording;
use crate::formatting::{four_digits, list, plural};
use crate::record::{Agreement, Estimate, Results, VariantResult};
use crate::units::Ratio;

/// What was measured, in clauses. Runs that start from the same weights and are not trained are no sample, so no format is recommended by
/// their metric.
pub(super) fn clauses(results: &Results) -> Vec<String> {
    let first = "Nothing was trained, so no format of training is recommended".to_owned();
    let mut clauses = vec![first];
    clauses.extend(decode(results).or_else(|| batches(results)).unwrap_or_default());
    let last =
        "what each format costs in inference and how far it is from the baseline is in the tables";
    clauses.push(last.to_owned());
    clauses
}

/// Which variant decodes fastest, most sequences together, and how far its tokens are from FP32's; none where decode was not timed.
fn decode(results: &Results) -> Option<Vec<String>> {
    let ratio = |variant: &VariantResult| {
        let served = variant.serving.as_ref()?.batches.last()?;
        served.against_baseline.as_ref()?.decode_time_ratio
    };
    let served = results.variants.iter().filter_map(|variant| variant.serving.as_ref());
    let most = served.filter_map(|serving| Some(serving.batches.last()?.batch)).max()?;
    let together = match most {
        1 => "one sequence alone".to_owned(),
        several => format!("{} together", plural(several, "sequence")),
    };
    let fastest = Fastest::of(results, ratio, ("decodes", &format!(", {together}")))?;
    let agreement = fastest.variant.and_then(|variant| variant.serving.as_ref()?.agreement);
    Some(std::iter::once(fastest.said).chain(agreement.map(agrees)).collect())
}

/// Which variant is the fastest in batches of inference.
fn batches(results: &Results) -> Option<Vec<String>> {
    let ratio = |variant: &VariantResult| variant.against_baseline.as_ref()?.inference_time_ratio;
    let fastest = Fastest::of(results, ratio, ("is", " in batches of inference"))?;
    Some(vec![fastest.said])
}

/// Which variant is the fastest.
struct Fastest<'a> {
    /// None where no variant is clearly faster than the baseline.
    variant: Option<&'a VariantResult>,
    said: String,
}

impl<'a> Fastest<'a> {
    /// Of the variants whose whole interval is under 1, the one with the smallest ratio; none where there are no ratios.
    fn of(
        results: &'a Results,
        ratio: impl Fn(&VariantResult) -> Option<Estimate<Ratio>>,
        (does, what): (&str, &str),
    ) -> Option<Self> {
        let baseline = &results.plan.baseline;
        let timed = || results.variants.iter().filter_map(|found| Some((found, ratio(found)?)));
        timed().next()?;
        let faster = timed().filter(|(_, ratio)| ratio.high.0 < 1.0);
        let best = faster.min_by(|a, b| a.1.value.0.total_cmp(&b.1.value.0));
        let Some((variant, ratio)) = best else {
            let said = format!("no format {does} clearly faster than {baseline}{what}");
            return Some(Self { variant: None, said });
        };
        let (name, speed) = (&variant.name, wording::speed(ratio, baseline));
        let said = format!("{name} {does} fastest, {speed}{what}");
        Some(Self { variant: Some(variant), said })
    }
}

/// How far tokens are from FP32's.
fn agrees(agreement: Agreement) -> String {
    let Estimate { value, low, high } = agreement.equal_tokens;
    let [value, low, high] = [value, low, high].map(|share| share * 100.0);
    let tokens = format!(
        "it finds the same token as FP32 at {value:.2}% of positions ({low:.2}–{high:.2}%)"
    );
    let divergence = agreement.kl_divergence.map(|Estimate { value, low, high }| {
        let [value, low, high] = [value, low, high].map(four_digits);
        format!("its distributions are {value} nats from FP32's ({low} to {high})")
    });
    list(&std::iter::once(tokens).chain(divergence).collect::<Vec<_>>())
}
