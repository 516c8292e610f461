/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A step made NaN or infinite values. Found at the step that made them, not in the picture.
    #[error(
        "step {step} (counted from 0), from noise level {sigma}, gave values that are not finite: \
         lower the guidance scale or compute in f32"
    )]
    NotFinite {
        /// The step, counted from 0.
        step: usize,
        /// The noise level that the step started from.
        sigma: f32,
    },
    /// A solver that chooses its steps would need them narrower than noise levels can be told apart.
    #[error(
        "no step from noise level {sigma} is within the tolerance of {tolerance}: give a larger one, as in dopri5(0.01), \
         or compute in f32"
    )]
    Tolerance {
        /// What was asked for.
        tolerance: f32,
        /// Where it went no further.
        sigma: f32,
    },
    /// The watcher asked to stop.
    #[error("stopped after step {step} (counted from 0)")]
    Stopped {
        /// The last step taken, counted from 0.
        step: usize,
    },
    /// The model has no velocity to give.
    #[error("the model failed")]
    Model(#[source] Box<dyn std::error::Error + Send + Sync>),
}
