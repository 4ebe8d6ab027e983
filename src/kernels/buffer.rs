//! Cache-line aligned storage for packed weights and scratch space.

use std::ops::{Deref, DerefMut};

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

/// A fixed number of f32 values that start at a 64-byte boundary, so that no vector load straddles
/// two cache lines.
#[derive(Debug, Clone, Default)]
pub struct Aligned {
    lines: Vec<CacheLine>,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        Self { lines: vec![CacheLine([0.0; 16]); len.div_ceil(16)], len }
    }

    /// At least `len` values in whatever state earlier use left them: scratch space that is written
    /// before it is read.
    pub fn at_least(&mut self, len: usize) -> &mut [f32] {
        if self.lines.len() * 16 < len {
            self.lines = vec![CacheLine([0.0; 16]); len.div_ceil(16)];
        }
        self.len = self.len.max(len);
        &mut self[..len]
    }
}

impl Deref for Aligned {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `CacheLine` is exactly 16 contiguous f32 (repr(C), size 64) and `len` never
        // exceeds the lines held.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for `deref`; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A pointer that tasks of one operator share, each writing its own part of what it points to.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(pub *mut f32);

// SAFETY: whoever dereferences it upholds that no two tasks touch the same element; the operators
// partition their output.
unsafe impl Send for SharedMut {}
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

/// A new vector of `len` values that `fill` writes through the pointer it is given.
///
/// # Safety
/// `fill` must write every one of the `len` values.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(SharedMut)) -> Vec<f32> {
    let mut values = Vec::<f32>::with_capacity(len);
    fill(SharedMut(values.as_mut_ptr()));
    // SAFETY: the caller vouches that all `len` values were written.
    unsafe { values.set_len(len) };
    values
}
