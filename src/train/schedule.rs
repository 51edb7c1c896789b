//! The learning rate over the updates. A skipped step makes no update, so it does not advance the schedule.

use std::f64::consts::PI;

use crate::spec::{ScheduleKind, SchedulePlan};

/// The factor on the peak learning rate for update `done` (from 0) of `total`.
pub fn factor(plan: &SchedulePlan, done: u64, total: u64) -> f64 {
    if done < plan.warmup {
        return (done + 1) as f64 / plan.warmup as f64;
    }
    let length = total.saturating_sub(plan.warmup).max(1);
    let progress = ((done - plan.warmup) as f64 / length as f64).min(1.0);
    let shape = match plan.kind {
        ScheduleKind::Constant => return 1.0,
        ScheduleKind::Cosine => f64::midpoint(1.0, libm::cos(PI * progress)),
        ScheduleKind::Linear => 1.0 - progress,
    };
    plan.floor + (1.0 - plan.floor) * shape
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By definition: warm-up to 1 over 4 updates; then over 8 updates to the floor of 0.1, half way at 0.55.
    #[test]
    fn factors_by_definition() {
        let plan = |kind| SchedulePlan { kind, warmup: 4, floor: 0.1 };
        for (kind, done, expected) in [
            (ScheduleKind::Cosine, 0, 0.25),
            (ScheduleKind::Cosine, 3, 1.0),
            (ScheduleKind::Cosine, 4, 1.0),
            (ScheduleKind::Cosine, 8, 0.55),
            (ScheduleKind::Cosine, 12, 0.1),
            (ScheduleKind::Linear, 6, 0.775),
            (ScheduleKind::Linear, 8, 0.55),
            (ScheduleKind::Linear, 20, 0.1),
            (ScheduleKind::Constant, 11, 1.0),
        ] {
            let value = factor(&plan(kind), done, 12);
            assert!((value - expected).abs() < 1e-12, "{kind:?} at {done}: {value}");
        }
    }
}
