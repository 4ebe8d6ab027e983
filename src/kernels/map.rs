//! A batch of feature maps in memory, channels last.

/// A batch of maps in memory, `[batch, height, width, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Maps.
    pub batch: usize,
    /// Rows of a map.
    pub height: usize,
    /// Columns of a map.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}
