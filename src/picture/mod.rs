//! Pictures that come in: reading files with what their metadata says, and bringing them and their
//! masks to a size that a checkpoint can take.

mod fit;
mod mask;
mod metadata;
mod read;
mod resize;
mod whole;

pub use fit::fit;
pub use mask::{Mask, check_shape, mask, read_mask};
pub use metadata::{METADATA_KEY, Metadata, metadata};
pub use read::{decode, read, read_metadata, read_opaque};
pub use resize::resize;
