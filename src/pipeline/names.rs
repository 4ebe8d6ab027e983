//! The names of number types and devices, as options and `run.json` write them.

use candle_core::{DType, Device};

use crate::argument::{DEVICE, DTYPE};
use crate::{Error, Result};

/// The number type `f32`, `bf16` or `f16`.
///
/// # Errors
/// [`Error::Argument`] for another name.
pub fn dtype_named(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err(Error::argument(DTYPE, format!("{} is unknown; choose f32, bf16 or f16", crate::in_quotes(name)))),
    }
}

/// The device `cpu`, `cuda` or `metal`.
///
/// # Errors
/// [`Error::Argument`] for another name, and for a device that this build does not have.
pub fn device_named(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "cuda" if candle_core::utils::cuda_is_available() => Ok(Device::new_cuda(0)?),
        "metal" if candle_core::utils::metal_is_available() => Ok(Device::new_metal(0)?),
        "cuda" | "metal" => Err(Error::argument(
            DEVICE,
            format!("this binary was built without {name}; build it with `--features {name}` or use cpu"),
        )),
        _ => Err(Error::argument(DEVICE, format!("{} is unknown; choose cpu, cuda or metal", crate::in_quotes(name)))),
    }
}

/// The name that [`dtype_named`] takes.
pub(super) fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        _ => "f32",
    }
}

/// The name that [`device_named`] takes.
pub(super) fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}
