//! The allocator of the program.
//!
//! A training step frees and takes the same few hundred large buffers again and again. Given back to
//! the system, each is cleared anew, page by page, on its next use: a tenth of the time of a step. Kept
//! by the system's allocator, they are cut up, and a step takes half as much memory again as it uses.
//! So large buffers are kept here, each for the next of the same size, and with those in use never much
//! more than were in use at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::{Mutex, PoisonError};

/// Buffers from this size on are kept.
const LARGE: usize = 32 * 1024;
/// How many are kept at most.
const SLOTS: usize = 512;

/// This part more may be held than was in use at once. With less a step takes buffers of its own from
/// the system again and again.
const SLACK: usize = 4;

/// Lets glibc take large buffers from the system one by one. It would stop that once one is freed, and
/// cut up what it holds.
pub fn keep_apart() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: no other thread runs yet; a value that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE as i32);
    }
}

#[global_allocator]
static ALLOCATOR: Recycling = Recycling::new();

/// The system's allocator, with large buffers that are used again.
struct Recycling(Mutex<Idle>);

/// A buffer that nobody uses.
#[derive(Clone, Copy)]
struct Block {
    /// Its address.
    start: usize,
    size: usize,
    align: usize,
}

/// The buffers that nobody uses, the one freed last behind.
struct Idle {
    blocks: [Block; SLOTS],
    count: usize,
    bytes: usize,
    /// Bytes of large buffers in use, and the most that ever were.
    live: usize,
    most: usize,
}

impl Idle {
    /// A buffer of this layout, now in use.
    fn take(&mut self, layout: Layout) -> Option<*mut u8> {
        self.live += layout.size();
        self.most = self.most.max(self.live);
        let fits = |b: &Block| b.size == layout.size() && b.align == layout.align();
        let found = self.blocks[..self.count].iter().rposition(fits)?;
        Some(self.remove(found).start as *mut u8)
    }

    fn remove(&mut self, at: usize) -> Block {
        let block = self.blocks[at];
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.bytes -= block.size;
        block
    }

    /// Keeps a buffer that is no longer in use.
    fn put(&mut self, start: *mut u8, layout: Layout) {
        self.live -= layout.size();
        if self.count == SLOTS {
            self.release();
        }
        self.blocks[self.count] =
            Block { start: start as usize, size: layout.size(), align: layout.align() };
        self.count += 1;
        self.bytes += layout.size();
    }

    /// Gives the buffer back that was idle for the longest time.
    fn release(&mut self) {
        let block = self.remove(0);
        // SAFETY: the block came from the system with this layout, and nobody has it.
        unsafe {
            let layout = Layout::from_size_align_unchecked(block.size, block.align);
            System.dealloc(block.start as *mut u8, layout);
        }
    }

    /// Makes room for what is in use now.
    fn shrink(&mut self) {
        let most = self.most + self.most / SLACK;
        while self.count > 0 && self.live + self.bytes > most {
            self.release();
        }
    }
}

impl Recycling {
    const fn new() -> Recycling {
        let blocks = [Block { start: 0, size: 0, align: 0 }; SLOTS];
        Recycling(Mutex::new(Idle { blocks, count: 0, bytes: 0, live: 0, most: 0 }))
    }

    /// A kept buffer of this layout. Room is made where there is none.
    fn kept(&self, layout: Layout) -> Option<*mut u8> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let block = idle.take(layout);
        if block.is_none() {
            idle.shrink();
        }
        block
    }
}

// SAFETY: memory comes from the system's allocator. A kept buffer is handed out for the layout that it
// was taken with, and to one caller alone.
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE
            && let Some(block) = self.kept(layout)
        {
            return block;
        }
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() >= LARGE
            && let Some(block) = self.kept(layout)
        {
            // SAFETY: the block has this size.
            unsafe { block.write_bytes(0, layout.size()) };
            return block;
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() >= LARGE {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).put(block, layout);
            return;
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn buffers_are_used_again_for_the_same_layout() {
        let a = Recycling::new();
        let (one, other) = (layout(LARGE, 64), layout(LARGE, 128));
        // SAFETY: every buffer is used within its layout and freed once.
        unsafe {
            let (first, kept) = (a.alloc(one), a.alloc(one));
            first.write_bytes(7, LARGE);
            a.dealloc(first, one);
            let second = a.alloc_zeroed(one);
            assert_eq!(first, second);
            assert!(std::slice::from_raw_parts(second, LARGE).iter().all(|&b| b == 0));
            let aligned = a.alloc(other);
            assert!(aligned.addr().is_multiple_of(128));
            a.dealloc(kept, one);
            a.dealloc(aligned, other);
            a.dealloc(second, one);
        }
    }

    #[test]
    fn little_more_is_held_than_was_in_use_at_once() {
        let a = Recycling::new();
        let held = || {
            let idle = a.0.lock().unwrap();
            (idle.live + idle.bytes, idle.most, idle.count)
        };
        // SAFETY: as above.
        unsafe {
            for i in 0..2 * SLOTS {
                let l = layout(LARGE + 4096 * i, 8);
                let block = a.alloc(l);
                assert!(!block.is_null());
                a.dealloc(block, l);
                let (bytes, most, count) = held();
                assert!(bytes <= most + most / SLACK + l.size() && count <= SLOTS);
            }
            let many: Vec<_> = (0..2 * SLOTS).map(|_| a.alloc(layout(LARGE, 8))).collect();
            many.into_iter().for_each(|b| a.dealloc(b, layout(LARGE, 8)));
        }
        let (bytes, most, count) = held();
        assert!(bytes <= most + most / SLACK && count <= SLOTS, "{bytes} {most} {count}");
    }
}
