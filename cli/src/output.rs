//! Printing that does not panic, as the standard `println!` does where its reader is gone (`vianet status | head`) or the
//! disk is full: the macros below stand in its place in the whole program.
//!
//! A reader who has seen enough is no failure, and nothing that runs (a demo, a lab that starts) is broken off for it. Any
//! other error of standard output makes the program fail at its end ([`check`]).

use crate::failure::{Failure, Outcome};
use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

/// The first error of standard output.
static FAILED: OnceLock<String> = OnceLock::new();

macro_rules! print {
    ($($text:tt)*) => { $crate::output::out(format_args!($($text)*)) };
}

macro_rules! println {
    () => { $crate::output::out(format_args!("\n")) };
    ($($text:tt)*) => { $crate::output::out(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::output::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes to standard output.
pub fn out(text: Arguments<'_>) {
    note(std::io::stdout().write_fmt(text));
}

/// Writes to standard error, if that can be written.
pub fn err(text: Arguments<'_>) {
    let _ = std::io::stderr().write_fmt(text);
}

/// Whether everything that was printed is written, or nobody wanted to read it.
pub fn check() -> Outcome {
    note(std::io::stdout().flush());
    match FAILED.get() {
        None => Ok(()),
        Some(why) => Err(Failure::failed(format!("standard output: {why}"))),
    }
}

fn note(written: std::io::Result<()>) {
    match written {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => _ = FAILED.set(e.to_string()),
        _ => {}
    }
}
