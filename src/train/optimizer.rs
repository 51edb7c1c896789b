//! A plan's optimizer as the updates of `ops`.

use super::schedule::factor;
use crate::ops::{AdamW, RateSchedule, Rates, Sgd, Update};
use crate::spec::{OptimizerPlan, TrainPlan};

/// The optimizer's rule, without the rates that change.
pub(super) fn rule(optimizer: OptimizerPlan) -> Update {
    match optimizer {
        OptimizerPlan::Sgd { lr, momentum, nesterov, weight_decay } => Update::Sgd(Sgd {
            lr: lr as f32,
            momentum: momentum as f32,
            nesterov,
            weight_decay: weight_decay as f32,
        }),
        OptimizerPlan::AdamW { lr, beta1, beta2, eps, weight_decay } => Update::AdamW(AdamW {
            lr: lr as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            correction1: 1.0,
            correction2: 1.0,
        }),
    }
}

/// Learning rate and bias corrections of each update of a run; after its last they stay as they are.
pub(super) fn rates(plan: &TrainPlan) -> RateSchedule {
    let plan = plan.clone();
    RateSchedule::new(move |update| {
        let update = update.min(plan.steps.max(1) - 1);
        let count = (update + 1) as f64;
        let (peak, [correction1, correction2]) = match plan.optimizer {
            OptimizerPlan::Sgd { lr, .. } => (lr, [1.0; 2]),
            OptimizerPlan::AdamW { lr, beta1, beta2, .. } => {
                let first = 1.0 / (1.0 - libm::pow(beta1, count));
                (lr, [first as f32, (1.0 / (1.0 - libm::pow(beta2, count)).sqrt()) as f32])
            }
        };
        let lr = (peak * factor(&plan.schedule, update, plan.steps)) as f32;
        Rates { lr, correction1, correction2 }
    })
}

/// Tensors that the optimizer keeps for each parameter, of its shape.
pub(super) fn states(optimizer: OptimizerPlan) -> usize {
    match optimizer {
        OptimizerPlan::Sgd { momentum: 0.0, .. } => 0,
        OptimizerPlan::Sgd { .. } => 1,
        OptimizerPlan::AdamW { .. } => 2,
    }
}
