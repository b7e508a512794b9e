use super::*;
use std::ptr::{null, null_mut};

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn last_error() -> String {
    let mut buffer = [0 as c_char; 512];
    // SAFETY: the buffer is as large as said, and terminated by the call.
    unsafe {
        vianet_last_error(buffer.as_mut_ptr(), buffer.len());
        CStr::from_ptr(buffer.as_ptr())
            .to_str()
            .expect("UTF-8")
            .to_owned()
    }
}

#[test]
fn null_and_bad_descriptors_are_errors() {
    let mut byte = 0_u8;
    let at = (&raw mut byte).cast::<c_void>();
    // SAFETY: NULL and numbers that are not ours are what these calls must survive; `at` is valid for one byte.
    unsafe {
        assert_eq!(
            (vianet_connect(null(), null()), errno()),
            (-1, libc::EFAULT)
        );
        assert!(last_error().contains("NULL"));
        for fd in [-1, i32::MIN, i32::MAX] {
            assert_eq!((vianet_send(fd, at, 1, 0), errno()), (-1, libc::EBADF));
            assert_eq!((vianet_recv(fd, at, 1, 0), errno()), (-1, libc::EBADF));
            assert_eq!((vianet_shutdown(fd, 0), errno()), (-1, libc::EBADF));
            assert_eq!((vianet_close(fd), errno()), (-1, libc::EBADF));
            assert_eq!((vianet_info(fd, null_mut()), errno()), (-1, libc::EFAULT));
        }
        assert_eq!((vianet_send(0, at, 1, 0), errno()), (-1, libc::ENOTSOCK));
        assert_eq!((vianet_close(0), errno()), (-1, libc::ENOTSOCK));
        assert_eq!(
            (vianet_resolve(null(), null_mut()), errno()),
            (-1, libc::EFAULT)
        );
        assert_eq!(
            (vianet_resolve(c"x".as_ptr(), null_mut()), errno()),
            (-1, libc::EFAULT)
        );
    }
}

#[test]
fn names_that_are_none() {
    let long = std::ffi::CString::new(vec![b'x'; 10_000]).expect("no NUL");
    // SAFETY: all are NUL-terminated.
    unsafe {
        assert_eq!(
            (vianet_connect(c"\xff\xfe".as_ptr(), null()), errno()),
            (-1, libc::EILSEQ)
        );
        assert_eq!(
            (vianet_connect(long.as_ptr(), null()), errno()),
            (-1, libc::ENAMETOOLONG)
        );
    }
    assert!(last_error().contains("10000 bytes"), "{}", last_error());
}

#[test]
fn struct_sizes() {
    #[repr(C)]
    struct Newer {
        options: vianet_options,
        more: [u64; 4],
    }
    // SAFETY: all bytes zero is a value of it.
    let mut newer: Newer = unsafe { std::mem::zeroed() };
    newer.options.config_file = c"/nonexistent".as_ptr();
    let connect = |options: *const vianet_options| {
        // SAFETY: every struct passed is readable for the size that it says.
        (
            unsafe { vianet_connect(c"a\\b".as_ptr(), options) },
            errno(),
            last_error(),
        )
    };
    for size in [0, 1, 8, 1 << 40] {
        newer.options.size = size;
        let (r, e, text) = connect((&raw const newer).cast());
        assert_eq!((r, e), (-1, libc::EINVAL), "{size}");
        assert!(text.contains("size"), "{text}");
    }
    // Older, same, newer with zero: all get as far as the configuration file.
    for size in [32, size_of::<vianet_options>(), size_of::<Newer>()] {
        newer.options.size = size;
        let (_, e, text) = connect((&raw const newer).cast());
        assert_eq!(e, libc::EINVAL);
        assert!(text.contains("/nonexistent"), "{size}: {text}");
    }
    newer.more[3] = 1;
    let (_, e, text) = connect((&raw const newer).cast());
    assert!(e == libc::EINVAL && text.contains("not zero"), "{text}");
    newer.more[3] = 0;
    newer.options.flags = 1 << 31;
    assert!(connect((&raw const newer).cast()).2.contains("flags"));
    newer.options.flags = 0;
    newer.options.transports = 1 << 9;
    assert!(connect((&raw const newer).cast()).2.contains("transports"));
}

#[test]
fn last_error_is_cut_and_terminated() {
    // SAFETY: the buffers are as large as said.
    unsafe {
        vianet_connect(null(), null());
        let whole = vianet_last_error(null_mut(), 0);
        let mut small = [1 as c_char; 5];
        assert_eq!(vianet_last_error(small.as_mut_ptr(), 5), whole);
        assert_eq!(small[4], 0);
        assert_eq!(CStr::from_ptr(small.as_ptr()).to_bytes(), b"the ");
        *libc::__errno_location() = 77;
        vianet_last_error(small.as_mut_ptr(), 1);
        assert_eq!((small[0], errno()), (0, 77));
    }
}

#[test]
fn a_panic_stops_at_the_border() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let value = border(|| -> Result<()> { panic!("a defect") });
    std::panic::set_hook(hook);
    assert_eq!((value, errno()), (-1, libc::EIO));
}

#[test]
fn levels_and_version() {
    // SAFETY: no callback is given.
    unsafe {
        assert_eq!(
            (vianet_set_log_callback(9, None, null_mut()), errno()),
            (-1, libc::EINVAL)
        );
        assert_eq!(vianet_set_event_callback(None, null_mut()), 0);
        let version = CStr::from_ptr(vianet_version()).to_str().expect("ASCII");
        let macros =
            format!("{VIANET_VERSION_MAJOR}.{VIANET_VERSION_MINOR}.{VIANET_VERSION_PATCH}");
        assert_eq!(version, macros);
    }
}

#[test]
fn cut_texts_end_at_a_character() {
    let mut out = [1 as c_char; 4];
    copy_text(&mut out, "aäö");
    assert_eq!(out.map(|c| c as u8), [b'a', 0xc3, 0xa4, 0]);
    copy_text(&mut out, "ööö");
    assert_eq!(out.map(|c| c as u8)[..3], [0xc3, 0xb6, 0]);
}

#[test]
fn the_last_error_of_a_thread_that_is_ending_is_empty() {
    use std::cell::RefCell;
    struct AtTheEnd(std::sync::mpsc::Sender<usize>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            // SAFETY: no buffer is given.
            let _ = self
                .0
                .send(unsafe { vianet_last_error(std::ptr::null_mut(), 0) });
        }
    }
    thread_local!(static LATE: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) });
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Destructors run in the order of first use or in the opposite one: ours is tried on both sides.
        LATE.with(|late| *late.borrow_mut() = None);
        errors::set(&Error::new(Kind::BadArgument, "something"));
        LATE.with(|late| *late.borrow_mut() = Some(AtTheEnd(tell)));
    })
    .join()
    .unwrap();
    assert!(told.recv().is_ok());
}
