//! Pictures that come in: reading files, and bringing them and their masks to a size that a
//! checkpoint can take.

mod fit;
mod mask;
mod read;
mod resize;
mod whole;

pub use fit::fit;
pub use mask::{Mask, check_shape, mask, read_mask};
pub use read::{decode, read, read_opaque};
pub use resize::resize;
