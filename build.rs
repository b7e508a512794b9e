//! The ELF properties of `libvianet.so`: a SONAME, and never unloaded (its I/O thread and the descriptors it serves
//! outlive every `dlclose`).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // `rustc-link-arg`, although it reaches this package's test programs too (where these mean nothing): cargo hands
    // `rustc-cdylib-link-arg` on to the shared objects of dependent packages, and `libvianet_preload.so` got our SONAME.
    println!("cargo:rustc-link-arg=-Wl,-soname,libvianet.so.0");
    println!("cargo:rustc-link-arg=-Wl,-z,nodelete");
}
