//! The allocator of the program.
//!
//! A training step frees and takes the same few hundred large buffers again and again. Given back to
//! the system, each is cleared anew, page by page, on its next use: a tenth of the time of a step. Kept
//! by the system's allocator, they are cut up, and a step takes half as much memory again as it uses.
//! So large buffers are kept here, each for the next that fits in it, and with those in use never much
//! more than were in use at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
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

/// A buffer from the system. Its first bytes hold its size, and what the caller has lies behind them.
#[derive(Clone, Copy)]
struct Block {
    /// Its address.
    start: usize,
    /// With the bytes in front.
    size: usize,
    align: usize,
}

impl Block {
    const NONE: Block = Block { start: 0, size: 0, align: 0 };

    /// Bytes in front of what the caller has.
    fn front(align: usize) -> usize {
        align.max(size_of::<usize>())
    }

    /// Size and alignment of a block for `layout`; none where the size overflows.
    fn layout(layout: Layout) -> Option<Layout> {
        let align = layout.align().max(align_of::<usize>());
        let size = layout.size().checked_add(Block::front(align))?;
        Layout::from_size_align(size, align).ok()
    }

    fn from_system(layout: Layout, zeroed: bool) -> Option<Block> {
        // SAFETY: the size is not 0.
        let start =
            unsafe { if zeroed { System.alloc_zeroed(layout) } else { System.alloc(layout) } };
        let (size, align) = (layout.size(), layout.align());
        (!start.is_null()).then_some(Block { start: start as usize, size, align })
    }

    /// Writes down its size, and gives what lies behind it.
    fn hand_out(self) -> *mut u8 {
        let start = self.start as *mut u8;
        // SAFETY: the block begins with room for its size, aligned.
        unsafe {
            start.cast::<usize>().write(self.size);
            start.add(Block::front(self.align))
        }
    }

    /// The block that was handed out for `layout`.
    ///
    /// # Safety
    /// `buffer` must be what [`Block::hand_out`] gave for it.
    unsafe fn handed_out(buffer: *mut u8, layout: Layout) -> Block {
        let align = layout.align().max(align_of::<usize>());
        // SAFETY: the size lies in front of what was handed out.
        unsafe {
            let start = buffer.sub(Block::front(align));
            Block { start: start as usize, size: start.cast::<usize>().read(), align }
        }
    }

    fn free(self) {
        // SAFETY: the block came from the system with this layout, and nobody has it.
        unsafe {
            let layout = Layout::from_size_align_unchecked(self.size, self.align);
            System.dealloc(self.start as *mut u8, layout);
        }
    }
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
    /// The smallest block that fits and is not much too large, now in use.
    fn take(&mut self, layout: Layout) -> Option<Block> {
        let range = layout.size()..=layout.size().saturating_mul(2);
        let fits = |b: &Block| b.align == layout.align() && range.contains(&b.size);
        let blocks = self.blocks[..self.count].iter().enumerate().rev().filter(|(_, b)| fits(b));
        let (at, _) = blocks.min_by_key(|(_, b)| b.size)?;
        let block = self.remove(at);
        self.hold(block.size);
        Some(block)
    }

    /// Counts a block as in use.
    fn hold(&mut self, size: usize) {
        self.live += size;
        self.most = self.most.max(self.live);
    }

    fn remove(&mut self, at: usize) -> Block {
        let block = self.blocks[at];
        self.blocks.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.bytes -= block.size;
        block
    }

    /// Keeps a block that is no longer in use.
    fn put(&mut self, block: Block) {
        self.live -= block.size;
        if self.count == SLOTS {
            self.remove(0).free();
        }
        self.blocks[self.count] = block;
        self.count += 1;
        self.bytes += block.size;
    }

    /// Gives those back that were idle for the longest time, until there is room for what is in use.
    fn shrink(&mut self) {
        let most = self.most + self.most / SLACK;
        while self.count > 0 && self.live + self.bytes > most {
            self.remove(0).free();
        }
    }
}

impl Recycling {
    const fn new() -> Recycling {
        let blocks = [Block::NONE; SLOTS];
        Recycling(Mutex::new(Idle { blocks, count: 0, bytes: 0, live: 0, most: 0 }))
    }

    /// A large buffer, and whether the system made it zero; null if there is none.
    fn large(&self, layout: Layout, zeroed: bool) -> (*mut u8, bool) {
        let Some(layout) = Block::layout(layout) else { return (ptr::null_mut(), false) };
        {
            let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(block) = idle.take(layout) {
                return (block.hand_out(), false);
            }
            idle.hold(layout.size());
            idle.shrink();
        }
        match Block::from_system(layout, zeroed) {
            Some(block) => (block.hand_out(), zeroed),
            None => {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).live -= layout.size();
                (ptr::null_mut(), false)
            }
        }
    }
}

// SAFETY: memory comes from the system's allocator, and is large enough and aligned for its layout. A
// block belongs to one caller or to the idle ones.
unsafe impl GlobalAlloc for Recycling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE {
            // SAFETY: the caller's promises are those of the system's allocator.
            return unsafe { System.alloc(layout) };
        }
        self.large(layout, false).0
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE {
            // SAFETY: as above.
            return unsafe { System.alloc_zeroed(layout) };
        }
        let (buffer, zero) = self.large(layout, true);
        if !zero && !buffer.is_null() {
            // SAFETY: the buffer has this size.
            unsafe { buffer.write_bytes(0, layout.size()) };
        }
        buffer
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        if layout.size() < LARGE {
            // SAFETY: as above.
            return unsafe { System.dealloc(buffer, layout) };
        }
        // SAFETY: large buffers were handed out by `large`.
        let block = unsafe { Block::handed_out(buffer, layout) };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn buffers_are_used_again() {
        let a = Recycling::new();
        let (one, other) = (layout(LARGE + 100, 64), layout(LARGE, 128));
        // SAFETY: every buffer is used within its layout and freed once.
        unsafe {
            let (first, kept) = (a.alloc(one), a.alloc(one));
            first.write_bytes(7, one.size());
            a.dealloc(first, one);
            let second = a.alloc_zeroed(one);
            assert_eq!(first, second);
            assert!(std::slice::from_raw_parts(second, one.size()).iter().all(|&b| b == 0));
            // A smaller buffer finds room in a larger one, but not in one that is much too large.
            a.dealloc(second, one);
            let small = layout(LARGE, 64);
            assert_eq!(a.alloc(small), first);
            let second = first;
            let aligned = a.alloc(other);
            assert!(aligned.addr().is_multiple_of(128));
            a.dealloc(kept, one);
            a.dealloc(aligned, other);
            a.dealloc(second, small);
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
                assert!(bytes <= most + most / SLACK + l.size() + 64 && count <= SLOTS);
            }
            let many: Vec<_> = (0..2 * SLOTS).map(|_| a.alloc(layout(LARGE, 8))).collect();
            many.into_iter().for_each(|b| a.dealloc(b, layout(LARGE, 8)));
        }
        let (bytes, most, count) = held();
        assert!(bytes <= most + most / SLACK && count <= SLOTS, "{bytes} {most} {count}");
    }
}
