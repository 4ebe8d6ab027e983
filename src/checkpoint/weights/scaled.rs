//! Float8 weights with a factor beside them: which tensors are factors, and of what.
//!
//! ComfyUI writes two namings. Files of 2025 have `X.scale_weight` beside `X.weight`, perhaps
//! `X.scale_input`, and an empty tensor `scaled_fp8`. Later ones have `X.weight_scale`, perhaps
//! `X.input_scale`, and `X.comfy_quant` with the format's name as JSON. The weight is the float8
//! times its factor. The factors of inputs are for products of two float8, which are not made here.

use super::entry::{Encoding, Entry};
use safetensors::Dtype;
use serde_json::Value;
use std::collections::BTreeMap;

/// What belongs to a weight in float8.
enum Float8Companion {
    /// Its factor.
    Factor,
    /// The name of its format.
    Format,
    /// Of no use here.
    Inert,
}

/// The weight that the tensor `name` lies beside, and as what.
fn beside(name: &str) -> Option<(String, Float8Companion)> {
    let of = |path: &str, what| Some((format!("{path}.weight"), what));
    let (path, last) = name.rsplit_once('.').unwrap_or(("", name));
    match last {
        "scale_weight" | "weight_scale" => of(path, Float8Companion::Factor),
        "comfy_quant" => of(path, Float8Companion::Format),
        "scale_input" | "input_scale" => of(path, Float8Companion::Inert),
        "scaled_fp8" => Some((String::new(), Float8Companion::Inert)),
        _ => None,
    }
}

/// Gives each weight its factor and takes the factors out of `entries`. `bytes` is the whole file.
/// The error reads on from the file's name.
pub(super) fn attach(entries: &mut BTreeMap<String, Entry>, bytes: &[u8]) -> Result<(), String> {
    let names: Vec<String> = entries.keys().filter(|name| beside(name).is_some()).cloned().collect();
    for name in names {
        let (Some(entry), Some((weight, what))) = (entries.remove(&name), beside(&name)) else { continue };
        let own = bytes.get(entry.range.clone()).unwrap_or_default();
        match what {
            Float8Companion::Inert => {}
            Float8Companion::Format => {
                let format = serde_json::from_slice::<Value>(own).unwrap_or_default()["format"].clone();
                if !["float8_e4m3fn", "float8_e5m2"].iter().any(|known| format == *known) {
                    let format = format.as_str().unwrap_or("an unknown format");
                    let short: String = format.chars().filter(|c| !c.is_control()).take(40).collect();
                    return Err(format!(
                        "has `{weight}` in {short}, which is not read; take the file in f16, bf16, float8 or GGUF"
                    ));
                }
            }
            Float8Companion::Factor => {
                let factors =
                    factors(&entry, own).ok_or_else(|| format!("has no finite numbers in `{name}`; fetch it again"))?;
                let Some(target) = entries.get_mut(&weight) else {
                    return Err(format!("has `{name}`, but not `{weight}`, which it is the factor of; fetch it again"));
                };
                if !matches!(target.encoding, Encoding::Plain(Dtype::F8_E4M3 | Dtype::F8_E5M2)) {
                    return Err(format!(
                        "has `{weight}` in {} with factors beside it, which is not read; take the file in f16, bf16, \
                         float8 or GGUF",
                        target.encoding.name()
                    ));
                }
                let rows = target.shape.first().copied().unwrap_or(1);
                if factors.len() != 1 && factors.len() != rows {
                    return Err(format!("has {} factors in `{name}` for {rows} rows; fetch it again", factors.len()));
                }
                target.scale = factors;
            }
        }
    }
    Ok(())
}

/// The numbers of a tensor of factors; `None` where they are no finite floats.
fn factors(entry: &Entry, bytes: &[u8]) -> Option<Vec<f32>> {
    let values: Vec<f32> = match entry.encoding {
        Encoding::Plain(Dtype::F32) => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Encoding::Plain(Dtype::F16) => {
            bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect()
        }
        Encoding::Plain(Dtype::BF16) => {
            bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect()
        }
        _ => return None,
    };
    (!values.is_empty() && values.iter().all(|value| value.is_finite())).then_some(values)
}
