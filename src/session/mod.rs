//! Protocol observers: what may be promised about a stream when its server is lost. No I/O, no unsafe, no clock.

#![forbid(unsafe_code)]

pub mod postgres;
pub mod raw;
