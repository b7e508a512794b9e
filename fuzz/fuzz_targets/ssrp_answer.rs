//! A foreign SQL Browser's answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::ssrp::{Request, parse_dac};

fuzz_target!(|datagram: &[u8]| {
    let _ = parse_dac(datagram);
    let _ = Request::Instance("INST1".into()).parse_answer(datagram);
    if let Ok(instances) = Request::List.parse_answer(datagram) {
        // What was understood and can be said is understood the same again.
        if let Some(again) = Request::List.answer(&instances) {
            let read = Request::List
                .parse_answer(&again)
                .expect("our own answer is understood");
            assert!(read.len() <= instances.len());
        }
    }
    // The same with an honest size, behind the part that every instance has, so that the protocols are reached at once.
    const HEAD: &[u8] = b"ServerName;H;InstanceName;INST1;IsClustered;No;Version;1";
    let data = [HEAD, datagram].concat();
    let Ok(size) = u16::try_from(data.len()) else {
        return;
    };
    let framed = [&[5], &size.to_le_bytes()[..], &data].concat();
    let _ = Request::List.parse_answer(&framed);
    let _ = Request::Instance("inst1".into()).parse_answer(&framed);
});
