//! Link arguments of the shared object.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for arg in [
        // The dynamic linker finds it by this name in LD_PRELOAD and in `ldconfig`'s cache.
        "-Wl,-soname,libvianet_preload.so",
        // Thread-local destructors and the I/O thread must never lose their code.
        "-Wl,-z,nodelete",
        // Everything is bound while the program starts: no lazy binding inside a hook.
        "-Wl,-z,now",
        // The C interface of the library comes along in its rlib; a program that uses `libvianet.so` itself must not be
        // bound to the copy in here. Only our own objects export.
        "-Wl,--exclude-libs,ALL",
    ] {
        println!("cargo:rustc-cdylib-link-arg={arg}");
    }
}
