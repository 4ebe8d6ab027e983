//! Runs that go on from an estimate of the image at a later call, with fresh noise.
//!
//! At every call a run has an estimate of the finished latent. Noised again to the level of a call,
//! with other noise, it is what another run might have had there. What is in the estimate already
//! stays, and all else is drawn anew.

use candle_core::DType;

use super::load::Pipeline;
use super::options::{Fork, Options};
use super::start::Start;
use crate::scheduler::{self, Scheduler, TorchGenerator};
use crate::{Error, Result};

impl Pipeline {
    /// The part of [`check`](Self::check) that is about [`Options::fork`].
    pub(super) fn check_fork(&self, options: &Options, sampler: &dyn Scheduler) -> Result<()> {
        let Some(fork) = &options.fork else { return Ok(()) };
        if options.init.is_some() || options.latents.is_some() {
            return Err(Error::input("fork", "a forked run sets out from neither a picture nor given latents"));
        }
        let [_, channels, height, width] = self.latent_shape(options);
        if fork.denoised.dims() != [1, channels, height, width] {
            let shape = fork.denoised.dims();
            let reason = format!("the estimate has shape {shape:?}; this run needs {:?}", [1, channels, height, width]);
            return Err(Error::input("fork", reason));
        }
        let calls = sampler.timesteps().len();
        if fork.call >= calls {
            return Err(Error::input("fork", format!("there is no call {} in a run of {calls}", fork.call)));
        }
        Ok(())
    }

    /// The first sample of a forked run: the estimate with noise of each seed's own, to the level
    /// of the call.
    pub(super) fn forked(
        &self,
        fork: &Fork,
        options: &Options,
        sampler: &dyn Scheduler,
        noise: &mut [TorchGenerator],
    ) -> Result<Start> {
        let noise = scheduler::randn_tensor(&self.latent_shape(options), noise, DType::F32, &self.options.device)?;
        let estimate = fork.denoised.to_dtype(DType::F32)?.to_device(&self.options.device)?;
        let estimate = estimate.broadcast_as(noise.shape())?.contiguous()?;
        let latents = sampler.add_noise(&estimate, &noise, fork.call)?;
        Ok(Start { latents, first_call: fork.call, paint: None })
    }
}
