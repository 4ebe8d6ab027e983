//! The layers that every network runs through: each hides the memory layout and the way it is
//! computed.
//!
//! The networks in this module's siblings name layers and weights. How a layer is computed is
//! decided here alone, and so is the memory order of feature maps (NCHW or NHWC). Every layer has a
//! plain candle form, which is the path on CUDA and Metal and the oracle of anything faster.
//!
//! # Number formats
//! Weights keep the dtype that the `VarBuilder` was made with. Activations are f32 on a CPU
//! (candle has no bf16 product there, and f32 is the more exact) and the weights' dtype elsewhere;
//! see [`Builder::activations`]. Norms, softmax and the timestep embedding are computed in f32
//! everywhere.

mod attention;
mod builder;
mod conv;
mod fast;
mod feature_map;
mod joint;
mod linear;
mod norm;
mod rotary;
mod tracked;

pub use attention::{Attention, Draw, KeysValues, Tap, attend, merge_heads, split_heads};
pub use builder::{Builder, MemoryOrder};
pub use conv::{Conv2d, Downsample, Padding, Upsample};
pub use feature_map::FeatureMap;
pub use joint::{Columns, JointAttention, JointKeys};
pub use linear::{GeGlu, Linear, quick_gelu};
pub use norm::{GroupNorm, LayerNorm, RmsNorm};
pub use rotary::{Rotary, RotaryAxes, RotaryTables};
