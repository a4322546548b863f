//! Who a thread is to the kernel, and whether it still lives.
//!
//! A thread that ends in the middle of something leaves its id behind. Whoever finds the id asks
//! here; a wrong "lives" is possible for a while and costs a wait, a wrong "ended" is not.

use std::cell::Cell;
use std::sync::Once;

thread_local! {
    /// The id of this thread, or 0 before it was first asked for.
    static THREAD_ID: Cell<u32> = const { Cell::new(0) };
}

/// The kernel's id of the calling thread (gettid): above 0, below 2^31, unique among the threads
/// that live now, and used again some time after the thread ended.
///
/// One system call at a thread's first call, a load afterwards. The child of a `fork` gets its own
/// id; one made by a bare `clone` system call, without the C library, would keep its parent's.
#[inline]
pub fn thread_id() -> u32 {
    match THREAD_ID.get() {
        0 => ask_for_thread_id(),
        id => id,
    }
}

#[cold]
fn ask_for_thread_id() -> u32 {
    static FORGET_AT_FORK: Once = Once::new();
    FORGET_AT_FORK.call_once(|| {
        // SAFETY: the handler stays where it is as long as this code does, and does only what is
        // allowed between fork and exec: it writes a thread-local that has no destructor.
        #[allow(unsafe_code)]
        let result = unsafe { libc::pthread_atfork(None, None, Some(forget_thread_id)) };
        assert_eq!(result, 0, "pthread_atfork fails only for want of a few bytes of memory");
    });
    let id = nix::unistd::gettid().as_raw().unsigned_abs();
    THREAD_ID.set(id);
    id
}

/// Runs in the child of a fork, on its only thread.
extern "C" fn forget_thread_id() {
    THREAD_ID.set(0);
}

/// Whether the thread `id` of this process lives. An id that no thread can have does not, nor does
/// one of another process, nor a thread that was lost to this process by `fork`.
///
/// "Lives" may be late: for some microseconds after a thread was joined, for as long as a
/// debugger holds it, and for ever when the id was given to a new thread of this process. "Ended"
/// is always true: the kernel has left that thread for good, and all it wrote can be seen.
///
/// Costs a system call; for the main thread three more, which read `/proc`.
pub fn thread_lives(id: u32) -> bool {
    let process = std::process::id();
    // SAFETY: signal 0 is never delivered: tgkill looks for the thread and does no more.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) };
    if result != 0 {
        // EINVAL is an id that no thread can have. Whatever else the kernel, or a filter of
        // system calls before it, answers says nothing about the thread.
        let refused = nix::errno::Errno::last();
        return !matches!(refused, nix::errno::Errno::ESRCH | nix::errno::Errno::EINVAL);
    }
    // A main thread that ended before the others stays in the kernel's table as a zombie.
    id != process || !main_thread_is_zombie()
}

/// Whether `/proc` says so of the thread whose id is the process's. No when it cannot be read.
fn main_thread_is_zombie() -> bool {
    use std::io::Read;
    // The name in parentheses is at most 16 bytes and may hold anything, also parentheses; the
    // state is the letter after it.
    let mut stat = [0; 64];
    let read = std::fs::File::open("/proc/self/stat").and_then(|mut file| file.read(&mut stat));
    let stat = &stat[..read.unwrap_or(0)];
    let state = stat.iter().rposition(|byte| *byte == b')').and_then(|end| stat.get(end + 2));
    matches!(state, Some(b'Z' | b'X'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// The kernel forgets a thread some time after it was joined.
    fn ends_soon(id: u32) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while thread_lives(id) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    #[test]
    fn each_thread_has_its_id_and_lives_until_it_ends() {
        let own = thread_id();
        assert_eq!(own, nix::unistd::gettid().as_raw() as u32);
        assert_eq!(thread_id(), own);
        assert!(thread_lives(own));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            tell.send(thread_id()).unwrap();
            let _ = stopped.recv();
        });
        let id = told.recv().unwrap();
        assert_ne!(id, own);
        assert!(thread_lives(id));
        drop(stop);
        other.join().unwrap();
        assert!(ends_soon(id));
    }

    #[test]
    fn ids_of_nobody_and_of_other_processes_do_not_live() {
        for id in [0, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
            assert!(!thread_lives(id), "{id}");
        }
        assert!(!thread_lives(std::os::unix::process::parent_id()));
        assert!(thread_lives(std::process::id()), "the main thread waits for the tests");
    }

    /// In a process of its own: a child of this one would hold the descriptors, and with them the
    /// file locks, of tests that run at the same time.
    #[test]
    fn a_forked_child_asks_anew_and_sees_its_main_thread_end() {
        let name = "machine::thread::tests::forks";
        let program = std::env::current_exe().unwrap();
        let output =
            std::process::Command::new(program).args(["--ignored", "--exact", name]).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    /// In a child: its own id, its parent's is not of this process, and its main thread is seen
    /// to have ended while another thread of it lives. The exit status says which was wrong.
    #[test]
    #[ignore = "run by the test above, alone in its process"]
    #[allow(unsafe_code)]
    fn forks() {
        let parent = thread_id();
        // SAFETY: the child calls the kernel, and the C library only where that repairs itself
        // after a fork (malloc and thread creation), and never returns into the test harness.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
            nix::unistd::ForkResult::Child => {
                let own = thread_id();
                let wrong = match () {
                    () if own != std::process::id() => 1,
                    () if thread_lives(parent) => 2,
                    () if !thread_lives(own) => 3,
                    () => 0,
                };
                std::thread::spawn(move || {
                    let wrong = if wrong == 0 && !ends_soon(own) { 4 } else { wrong };
                    // SAFETY: ends the child without the harness's exit handlers.
                    unsafe { libc::_exit(wrong) };
                });
                // SAFETY: ends this thread alone; nothing on its stack is needed any more.
                unsafe { libc::syscall(libc::SYS_exit, 0) };
                std::process::abort();
            }
        }
    }
}
