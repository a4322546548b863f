//! Random bytes from the kernel, for ids and incarnations.

use std::io;

/// `N` random bytes. It waits while the kernel's generator has no seed yet, early in a boot.
///
/// # Errors
/// As `getrandom(2)`: where the call is filtered.
///
/// ```
/// use dynamicfs::machine::random;
/// assert_ne!(random::bytes::<16>()?, random::bytes()?);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        let rest = &mut bytes[filled..];
        // SAFETY: the call writes at most `rest.len()` bytes to where `rest` points.
        #[allow(unsafe_code)]
        let got = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(got) {
            Ok(got) => filled += got,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(bytes)
}
