//! A datagram at the responder's port: what is understood can be said again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vianet::resolve::ssrp::{Instance, MAX_DATA_BYTES, Request};

fuzz_target!(|datagram: &[u8]| {
    let Some(request) = Request::parse(datagram) else {
        return;
    };
    // A name that is not UTF-8 grows when it is read and may then be too long to ask for.
    if let Some(again) = request.encode() {
        assert_eq!(Request::parse(&again), Some(request.clone()));
    }
    let name = match &request {
        Request::Instance(name) | Request::Dac(name) => name.clone(),
        _ => "INST1".into(),
    };
    let instance = Instance {
        server_name: "HOST".into(),
        instance_name: name,
        version: "1.0".into(),
        tcp: Some(1433),
        ..Instance::default()
    };
    if let Some(answer) = request.answer(&[instance]) {
        assert!(answer.len() <= 3 + MAX_DATA_BYTES);
        request
            .parse_answer(&answer)
            .expect("our own answer is understood");
    }
});
