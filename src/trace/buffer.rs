//! Numbers that are either owned or lie in a memory-mapped file.

use memmap2::Mmap;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A slice of plain numbers, owned or memory-mapped; reads as `&[T]`.
#[derive(Debug, Clone)]
pub struct Buffer<T>(BufferStorage<T>);

#[derive(Debug, Clone)]
enum BufferStorage<T> {
    Owned(Arc<Vec<T>>),
    /// Bytes of the map, checked at construction to be aligned and a whole number of `T`.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl<T: bytemuck::AnyBitPattern> Buffer<T> {
    /// The numbers in `bytes` of `map`, little-endian. Lazy where the machine can read them in
    /// place (little-endian and aligned), else a copy. Bytes beyond the last whole number are
    /// dropped.
    ///
    /// # Panics
    /// When `bytes` reaches outside the map.
    pub(crate) fn mapped(map: &Arc<Mmap>, bytes: Range<usize>) -> Self {
        let slice = &map[bytes.clone()];
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, T>(slice).is_ok() {
            return Self(BufferStorage::Mapped(map.clone(), bytes));
        }
        let size = size_of::<T>();
        let numbers = slice.chunks_exact(size).map(|chunk| {
            let mut chunk = chunk.to_vec();
            if cfg!(target_endian = "big") {
                chunk.reverse();
            }
            bytemuck::pod_read_unaligned(&chunk)
        });
        Self(BufferStorage::Owned(Arc::new(numbers.collect())))
    }
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self(BufferStorage::Owned(Arc::new(numbers)))
    }
}

impl<T: bytemuck::AnyBitPattern> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            BufferStorage::Owned(numbers) => numbers,
            BufferStorage::Mapped(map, bytes) => bytemuck::cast_slice(&map[bytes.clone()]),
        }
    }
}
