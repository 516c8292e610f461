//! The update of all parameters together, for devices that take longer to be told of an operation than to do it.
//!
//! Parameters with equally many updates behind them are laid end to end, with their gradients and what is remembered of
//! them; one update of that does for all. The arithmetic of each value is that of the update of its parameter alone.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use rectiflow_nn::ops::{self, AdamwMoments, runs_on_kernels};
use rectiflow_nn::to_f32;

use super::{ModuleGradients, Optimizer, ParamState};

/// Whether the parameters are where an operation is best done once for all.
pub(super) fn serves<const D: usize>(param: &Tensor<D>) -> bool {
    !runs_on_kernels(&param.device().inner())
}

/// A parameter with a gradient, both flat.
struct Member {
    id: ParamId,
    param: Tensor<1>,
    gradient: Tensor<1>,
    state: ParamState,
}

/// The new parameters, flat, of all that have a gradient and are where this pays; their states are replaced.
pub(super) fn update<M: Module>(
    optimizer: &mut Optimizer,
    module: &M,
    gradients: &mut ModuleGradients,
    learning_rate: f64,
) -> HashMap<ParamId, Tensor<1>> {
    let factor = gradients.factor;
    let mut collect = Collect { optimizer, gradients, groups: BTreeMap::new() };
    module.visit(&mut collect);
    let groups = collect.groups;
    let mut updated = HashMap::new();
    for (updates, members) in groups {
        let counts: Vec<usize> = members.iter().map(|member| member.param.dims()[0]).collect();
        let number = NonZeroU64::MIN.saturating_add(updates);
        let step = optimizer.rates(number, learning_rate, factor);
        let all = |of: fn(&Member) -> Tensor<1>| Tensor::cat(members.iter().map(of).collect(), 0);
        let average = |index: usize| {
            let of = |member: &Member| member.state.averages().nth(index).cloned();
            members.iter().map(of).collect::<Option<Vec<_>>>().map(|all| Tensor::cat(all, 0))
        };
        let moments = AdamwMoments {
            first: all(|member| member.state.moments.first.clone()),
            second: all(|member| member.state.moments.second.clone()),
            ema: average(0),
        };
        let more: Vec<Tensor<1>> = (1..).map_while(average).collect();
        let (param, gradient) = (all(|member| member.param.clone()), all(|member| member.gradient.clone()));
        let ids: Vec<ParamId> = members.iter().map(|member| member.id).collect();
        drop(members);
        let (param, moments) = ops::adamw_step(param, gradient, moments, &step);
        let more = optimizer.followed(more, &param);
        let mut start = 0;
        for (id, count) in ids.into_iter().zip(counts) {
            let part = |whole: &Tensor<1>| whole.clone().narrow(0, start, count);
            let moments = AdamwMoments {
                first: part(&moments.first),
                second: part(&moments.second),
                ema: moments.ema.as_ref().map(part),
            };
            let state = ParamState { updates: number.get(), moments, more_averages: more.iter().map(part).collect() };
            optimizer.states.insert(id, state);
            updated.insert(id, part(&param));
            start += count;
        }
    }
    updated
}

struct Collect<'a> {
    optimizer: &'a mut Optimizer,
    gradients: &'a mut ModuleGradients,
    /// By the updates they had.
    groups: BTreeMap<u64, Vec<Member>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        if !serves(&tensor) {
            return;
        }
        let Some(gradient) = self.gradients.gradients.remove(param.id) else { return };
        let tensor = tensor.inner();
        let state = self.optimizer.take_state(param.id, &tensor);
        let count = tensor.shape().num_elements();
        let member = Member { id: param.id, param: tensor.reshape([count]), gradient, state };
        self.groups.entry(member.state.updates).or_default().push(member);
    }
}

/// The sum of squares of every gradient that lies where this pays, brought together in one piece.
pub(super) fn squares<M: Module>(module: &M, gradients: &rectiflow_nn::ParamGradients) -> HashMap<ParamId, f64> {
    let mut sums = Sums { gradients, ids: Vec::new(), sums: Vec::new() };
    module.visit(&mut sums);
    if sums.ids.is_empty() {
        return HashMap::new();
    }
    sums.ids.into_iter().zip(to_f32(&Tensor::cat(sums.sums, 0)).into_iter().map(f64::from)).collect()
}

struct Sums<'a> {
    gradients: &'a rectiflow_nn::ParamGradients,
    ids: Vec<ParamId>,
    sums: Vec<Tensor<1>>,
}

impl ModuleVisitor for Sums<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get(param.id).filter(|gradient| serves(gradient)) else { return };
        self.ids.push(param.id);
        self.sums.push(gradient.clone().square().sum());
    }
}
