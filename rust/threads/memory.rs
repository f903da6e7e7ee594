//! Whether there is memory for one more thread.

/// Bytes: a stack of 2 MiB, and more than what the C library takes when the thread starts.
#[cfg(target_os = "linux")]
const BYTES: usize = 8 << 20;

/// Is there memory for the stack of a thread, and for what it takes when it starts?
///
/// Too little for a stack is an error that can be handled. Too little for the thread's own variables, which the C library
/// allocates at their first use, ends the process.
#[cfg(target_os = "linux")]
pub(super) fn suffices_for_a_thread() -> bool {
    use std::ffi::c_void;
    use std::ptr::null_mut;

    const READ_AND_WRITE: i32 = 1 | 2;
    const PRIVATE_AND_ANONYMOUS: i32 = 2 | 0x20;
    unsafe extern "C" {
        fn mmap(at: *mut c_void, len: usize, access: i32, kind: i32, file: i32, offset: isize) -> *mut c_void;
        fn munmap(at: *mut c_void, len: usize) -> i32;
    }
    // Not from the allocator, which would take large blocks from elsewhere when it has been given one back.
    // SAFETY: new pages, wherever there is room, which nobody touches; they go back at once.
    unsafe {
        let pages = mmap(null_mut(), BYTES, READ_AND_WRITE, PRIVATE_AND_ANONYMOUS, -1, 0);
        pages.addr() != usize::MAX && munmap(pages, BYTES) == 0
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn suffices_for_a_thread() -> bool {
    true
}
