//! A language model that generates tokens: how fast, in what memory, and how far from FP32.

use candle_core::{D, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Inferencer, Setup};
use crate::device::{Meter, Stopwatch};
use crate::ops;
use crate::record::PromptAgreement;
use crate::spec::ServingPlan;
use crate::units::{Bytes, Seconds};

/// Prompts, and how they are served.
#[derive(Clone, Debug)]
pub(super) struct Prompts {
    pub(super) plan: ServingPlan,
    /// One after the other, each of [`ServingPlan::prompt`] tokens.
    ids: Vec<u32>,
}

/// The timed blocks of so many sequences served together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServingTimes {
    /// Sequences.
    pub batch: usize,
    /// Mean time of a prefill in each block.
    pub prefill: Vec<Seconds>,
    /// Mean time of a pass that gives each sequence one token, in each block.
    pub decode: Vec<Seconds>,
    /// Peak live bytes, where memory is measured.
    pub peak_bytes: Option<Bytes>,
    /// The keys and values in that.
    pub cache: Bytes,
}

impl ServingTimes {
    /// Times that a block serves a batch, within one time each of prefill and decode.
    pub const ROUNDS: usize = 3;

    /// Seconds in which the first block served the batch once, with so many tokens for each sequence.
    pub fn once(&self, tokens: usize) -> Option<f64> {
        Some(self.prefill.first()?.0 + tokens as f64 * self.decode.first()?.0)
    }
}

impl Prompts {
    /// Those of a plan that measures serving.
    pub(super) fn of(Setup { task, measure, .. }: Setup<'_>) -> Option<Self> {
        let plan = measure.serving?;
        let ids = task.data.prompts(plan.prompts.max(plan.batch), plan.prompt);
        (!ids.is_empty()).then_some(Self { plan, ids })
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.ids.len() / self.plan.prompt
    }

    /// N × T ids of `count` prompts from `first` on, which start again where there are not so many.
    fn batch(&self, first: usize, count: usize, device: &Device) -> Result<Tensor> {
        let length = self.plan.prompt;
        let prompts = self.ids.chunks(length).cycle().skip(first % self.count()).take(count);
        let ids: Vec<u32> = prompts.flatten().copied().collect();
        ops::from_host(ids, (count, length), device)
    }

    /// Positions of a prompt and of all tokens after it.
    fn capacity(&self) -> usize {
        self.plan.prompt + self.plan.generate
    }

    /// Memory of each batch, before anything is timed.
    pub(super) fn measure(&self, model: &Inferencer) -> Result<Vec<ServingTimes>> {
        let mut batches = vec![1, self.plan.batch];
        batches.dedup();
        let measured = batches.into_iter().map(|batch| {
            let (peak_bytes, cache) = self.memory(model, batch)?;
            Ok(ServingTimes { batch, peak_bytes, cache, ..ServingTimes::default() })
        });
        measured.collect()
    }

    /// The peak of prefill and decode of a batch, where memory is measured, and the cache.
    fn memory(&self, model: &Inferencer, batch: usize) -> Result<(Option<Bytes>, Bytes)> {
        let device = model.device();
        let ids = self.batch(0, batch, device)?;
        let serve = || {
            let mut cache = model.cache(batch, self.capacity())?;
            let bytes = Bytes(cache.bytes());
            let token = greedy(&model.next(&ids, &mut cache)?)?;
            model.next(&token, &mut cache)?;
            Ok(bytes)
        };
        // Once without measuring, so that work space that libraries keep is there.
        let cache = serve()?;
        let work_space =
            if device.is_cpu() { ops::work_space(|| serve().map(drop))? } else { Some(Bytes(0)) };
        let (Some(work_space), Some(meter)) = (work_space, Meter::start(device)?) else {
            return Ok((None, cache));
        };
        serve()?;
        Ok((Some(Bytes(model.weight_bytes() + meter.peak()?.0 + work_space.0)), cache))
    }

    /// One block of each batch.
    pub(super) fn time(&self, model: &Inferencer, times: &mut [ServingTimes]) -> Result<()> {
        let device = model.device();
        for times in times {
            let batch = times.batch;
            let mut cache = model.cache(batch, self.capacity())?;
            let ids = self.batch(times.prefill.len() * batch, batch, device)?;
            // Once outside the clock: the processor's caches hold another variant's tensors.
            let token = greedy(&model.next(&ids, &mut cache)?)?;
            model.next(&token, &mut cache)?;
            let (mut prefill, mut decode) = (0.0, 0.0);
            for _ in 0..ServingTimes::ROUNDS {
                cache.clear();
                let clock = Stopwatch::start(device)?;
                let mut token = greedy(&model.next(&ids, &mut cache)?)?;
                prefill += clock.stop()?.0;
                let clock = Stopwatch::start(device)?;
                for _ in 0..self.plan.generate {
                    token = greedy(&model.next(&token, &mut cache)?)?;
                }
                decode += clock.stop()?.0;
            }
            times.prefill.push(Seconds(prefill / ServingTimes::ROUNDS as f64));
            times.decode.push(Seconds(decode / (ServingTimes::ROUNDS * self.plan.generate) as f64));
        }
        Ok(())
    }

    /// How far the tokens of `served` are from those of `reference`, which generates: a value a prompt.
    pub(super) fn agreement(
        &self,
        reference: &Inferencer,
        served: &Inferencer,
    ) -> Result<Vec<PromptAgreement>> {
        let count = self.count().min(self.plan.prompts);
        let mut found = Vec::with_capacity(count);
        for first in (0..count).step_by(self.plan.batch) {
            let batch = self.plan.batch.min(count - first);
            let mut ids = self.batch(first, batch, reference.device())?;
            let mut caches =
                [reference.cache(batch, self.capacity())?, served.cache(batch, self.capacity())?];
            let mut sums = vec![Sum::default(); batch];
            for _ in 0..self.plan.generate {
                let [of_reference, of_served] = &mut caches;
                let expected = reference.next(&ids, of_reference)?;
                let logits = served.next(&ids, of_served)?;
                ids = greedy(&expected)?;
                add(&expected, &logits, &mut sums)?;
            }
            found.extend(sums.iter().map(|sum| sum.over(self.plan.generate)));
        }
        Ok(found)
    }
}

/// What the positions of a prompt add up to.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    equal: usize,
    divergence: f64,
}

impl Sum {
    fn over(self, tokens: usize) -> PromptAgreement {
        let kl_divergence = Some(self.divergence / tokens as f64).filter(|value| value.is_finite());
        PromptAgreement { equal_tokens: self.equal, tokens, kl_divergence }
    }
}

/// The most probable token of each sequence, N × 1; of several, one of them.
fn greedy(logits: &Tensor) -> Result<Tensor> {
    logits.argmax_keepdim(D::Minus1)
}

/// Adds one position of each sequence.
fn add(expected: &Tensor, logits: &Tensor, sums: &mut [Sum]) -> Result<()> {
    let (_, tokens) = expected.dims2()?;
    let [expected, found] = [ops::to_f32(expected)?, ops::to_f32(logits)?];
    let rows = expected.chunks(tokens).zip(found.chunks(tokens));
    for (sum, (expected, found)) in sums.iter_mut().zip(rows) {
        let [p, q] = [log_softmax(expected), log_softmax(found)];
        let divergence: f64 = p.iter().zip(&q).map(|(p, q)| libm::exp(*p) * (p - q)).sum();
        sum.divergence += divergence;
        let best = |row: &[f32]| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        let is_finite = found.iter().all(|logit| logit.is_finite());
        sum.equal += usize::from(is_finite && best(expected) == best(found));
    }
    Ok(())
}

/// Logarithms of probabilities, in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|logit| f64::from(*logit) - f64::from(largest));
    let log = libm::log(shifted.clone().map(libm::exp).sum::<f64>());
    shifted.map(|value| value - log).collect()
}
