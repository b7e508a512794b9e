use super::*;

#[test]
fn a_child_does_not_wait_for_a_thread_of_its_parent() {
    static VALUE: Once<u32> = Once::new();
    let made = VALUE.get_or_make(|owner| {
        // SAFETY: the child looks at atomics and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above. A child that waits is ended by the signal.
            unsafe {
                libc::alarm(20);
                let none = matches!(VALUE.get_or_make(|_| 2), Ok(None));
                libc::_exit(if none && !owner.is_this() { 0 } else { 1 });
            }
        }
        let mut status = -1;
        // SAFETY: `status` takes it.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(status, 0, "the child waited, or made a value of its own");
        assert!(owner.is_this());
        1
    });
    assert_eq!(made.expect("a page"), Some(&1));
    assert_eq!(VALUE.get_or_make(|_| 3).expect("a page"), Some(&1));
}
