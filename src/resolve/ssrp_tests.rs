//! Golden packets of [MC-SQLR] section 4, and the variants that foreign clients were tried with.

use super::*;
use proptest::prelude::*;

fn ilsung(instance: &str, tcp: Option<u16>, np: Option<&str>) -> Instance {
    Instance {
        server_name: "ILSUNG1".into(),
        instance_name: instance.into(),
        version: "9.00.1399.06".into(),
        tcp,
        np: np.map(Into::into),
        ..Instance::default()
    }
}

fn inst1() -> Instance {
    Instance {
        server_name: "HOST".into(),
        instance_name: "INST1".into(),
        version: "15.0.2000.5".into(),
        tcp: Some(57137),
        ..Instance::default()
    }
}

fn datagram(data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![5];
    bytes.extend_from_slice(&(data.len() as u16).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

const HEAD: &str = "ServerName;HOST;InstanceName;INST1;IsClustered;No;Version;15.0.2000.5";

fn parse(data: &str) -> Result<Instance, BadAnswer> {
    let asked = Request::Instance("inst1".into());
    asked
        .parse_answer(&datagram(data.as_bytes()))
        .map(|mut all| all.remove(0))
}

fn parse_tail(tail: &str) -> Result<Instance, BadAnswer> {
    parse(&format!("{HEAD}{tail}"))
}

// [MC-SQLR] 4.1
#[test]
fn golden_unicast_instance() {
    let request = Request::Instance("YUKONSTD".into());
    let bytes = b"\x04\x59\x55\x4b\x4f\x4e\x53\x54\x44\x00";
    assert_eq!(request.encode().unwrap(), bytes);
    assert_eq!(Request::parse(bytes), Some(request.clone()));
    let instance = ilsung("YUKONSTD", Some(57137), None);
    let answer = request.answer(std::slice::from_ref(&instance)).unwrap();
    assert_eq!(&answer[..3], b"\x05\x58\x00");
    assert_eq!(answer.len(), 3 + 88);
    assert_eq!(
        &answer[3..],
        b"ServerName;ILSUNG1;InstanceName;YUKONSTD;IsClustered;No;Version;9.00.1399.06;tcp;57137;;"
    );
    assert_eq!(request.parse_answer(&answer), Ok(vec![instance]));
}

// [MC-SQLR] 4.2
#[test]
fn golden_unicast_list() {
    let instances = [
        ilsung("YUKONSTD", Some(57137), None),
        ilsung(
            "YUKONDEV",
            None,
            Some(r"\\ILSUNG1\pipe\MSSQL$YUKONDEV\sql\query"),
        ),
        ilsung("MSSQLSERVER", Some(1433), Some(r"\\ILSUNG1\pipe\sql\query")),
    ];
    assert_eq!(Request::List.encode().unwrap(), [3]);
    for request in [Request::List, Request::Broadcast] {
        let answer = request.answer(&instances).unwrap();
        assert_eq!(&answer[..3], b"\x05\x47\x01");
        assert!(answer.ends_with(br"tcp;1433;np;\\ILSUNG1\pipe\sql\query;;"));
        assert_eq!(request.parse_answer(&answer).unwrap(), instances);
    }
}

// [MC-SQLR] 4.3
#[test]
fn golden_dac() {
    let request = Request::Dac("YUKONSTD".into());
    let bytes = b"\x0f\x01YUKONSTD\x00";
    assert_eq!(request.encode().unwrap(), bytes);
    assert_eq!(Request::parse(bytes), Some(request.clone()));
    assert_eq!(encode_dac(57138), *b"\x05\x06\x00\x01\x32\xdf");
    assert_eq!(parse_dac(b"\x05\x06\x00\x01\x32\xdf"), Ok(57138));
    let without = ilsung("YUKONSTD", Some(1), None);
    assert_eq!(request.answer(std::slice::from_ref(&without)), None);
    let with = |dac| Instance {
        dac: Some(dac),
        ..without.clone()
    };
    assert_eq!(
        request.answer(&[with(57138)]).unwrap(),
        b"\x05\x06\x00\x01\x32\xdf"
    );
    assert_eq!(request.answer(&[with(0)]), None);
    assert_eq!(Request::Dac("other".into()).answer(&[with(57138)]), None);
    for bad in [
        &b""[..],
        b"\x05",
        b"\x05\x06\x00\x01\x32",
        b"\x05\x06\x00\x01\x32\xdf\x00",
    ] {
        assert!(parse_dac(bad).is_err(), "{bad:?}");
    }
    assert_eq!(parse_dac(b"\x05\x06\x00\x01\x00\x00"), Err(BadAnswer::Port));
    assert_eq!(parse_dac(b"\x04\x06\x00\x01\x32\xdf"), Err(BadAnswer::Type));
    assert!(parse_dac(b"\x05\x06\x00\x02\x32\xdf").is_err());
}

#[test]
fn requests_as_foreign_clients_send_them() {
    let name = |name: &str| Some(Request::Instance(name.into()));
    assert_eq!(Request::parse(b"\x04INST1\x00"), name("INST1"));
    assert_eq!(
        Request::parse(b"\x04INST1"),
        name("INST1"),
        "tiberius: no NUL"
    );
    assert_eq!(
        Request::parse(b"\x04INST1\x00rest;\xff"),
        name("INST1"),
        "after the NUL"
    );
    let longest = "x".repeat(32);
    assert_eq!(
        Request::parse(format!("\x04{longest}\x00").as_bytes()),
        name(&longest)
    );
    assert_eq!(Request::parse(b"\x02"), Some(Request::Broadcast));
    assert_eq!(Request::parse(b"\x03"), Some(Request::List));
}

#[test]
fn what_is_not_understood_is_met_with_silence() {
    let long = format!("\x04{}\x00", "x".repeat(33));
    let slammer = [&[4][..], &[1; 400]].concat();
    let cases: [&[u8]; 16] = [
        b"",
        b"\x00",
        b"\x01",
        b"\x02\x00",
        b"\x03\x03",
        b"\x04",
        b"\x04\x00",
        b"\x04\x00INST1",
        b"\x05\x00\x00",
        b"\x0a",
        b"\x0f",
        b"\x0f\x01",
        b"\x0f\x02INST1\x00",
        b"VIA1",
        long.as_bytes(),
        &slammer,
    ];
    for bad in cases {
        assert_eq!(Request::parse(bad), None, "{bad:?}");
    }
    assert_eq!(Request::Instance("other".into()).answer(&[inst1()]), None);
    assert_eq!(Request::List.answer(&[]), None);
    for name in ["", "a\0b", &"x".repeat(33)] {
        assert_eq!(Request::Instance(name.into()).encode(), None);
        assert_eq!(Request::Dac(name.into()).encode(), None);
    }
}

#[test]
fn answers_keep_the_limits_of_foreign_clients() {
    let ask = Request::Instance("inst1".into());
    let text = |i: Instance| {
        ask.answer(&[i])
            .map(|a| String::from_utf8(a[3..].to_vec()).unwrap())
    };
    let via = |netbios: &str, pairs: usize| {
        Some(Via {
            netbios: netbios.into(),
            ports: (0..pairs as u32).map(|n| (n, 1433)).collect(),
        })
    };
    let all = Instance {
        np: Some(r"\\HOST\pipe\sql\query".into()),
        via: via("HOST", 2),
        clustered: true,
        ..inst1()
    };
    let expected = r";IsClustered;Yes;Version;15.0.2000.5;tcp;57137;np;\\HOST\pipe\sql\query;via;HOST,0:1433,1:1433;;";
    assert!(text(all.clone()).unwrap().ends_with(expected));

    // Invalid or too much data of one protocol leaves that one out, and only that.
    let plain = text(inst1());
    assert!(plain.as_ref().unwrap().ends_with(";tcp;57137;;"));
    for np in ["", "a;b", "a\nb", &"p".repeat(256)] {
        assert_eq!(
            text(Instance {
                np: Some(np.into()),
                ..inst1()
            }),
            plain
        );
    }
    for bad in [
        via("", 1),
        via("HOST", 0),
        via("A,B", 1),
        via("A:B", 1),
        via("A;B", 1),
    ] {
        assert_eq!(
            text(Instance {
                via: bad,
                ..inst1()
            }),
            plain
        );
    }
    assert_eq!(
        text(Instance {
            via: via(&"N".repeat(16), 1),
            ..inst1()
        }),
        plain
    );
    assert_eq!(
        text(Instance {
            via: via("HOST", 18),
            ..inst1()
        }),
        plain,
        "more than 128 bytes"
    );
    let no_tcp = text(Instance {
        tcp: Some(0),
        ..inst1()
    })
    .unwrap();
    assert!(no_tcp.ends_with(";Version;15.0.2000.5;;"));

    // The largest names leave no room for a pipe in 1,023 bytes, but for the port.
    let huge = Instance {
        server_name: "S".repeat(255),
        instance_name: "inst1".into(),
        np: Some("p".repeat(255)),
        ..inst1()
    };
    assert!(text(huge.clone()).is_some());
    let list = Request::List.answer(&[Instance {
        instance_name: "I".repeat(255),
        ..huge
    }]);
    assert!(list.unwrap().len() <= 3 + MAX_INSTANCE_BYTES);

    // What remains must be an instance.
    for bad in [
        Instance {
            server_name: "a;b".into(),
            ..inst1()
        },
        Instance {
            server_name: String::new(),
            ..inst1()
        },
        Instance {
            server_name: "x".repeat(256),
            ..inst1()
        },
        Instance {
            version: "one".into(),
            ..inst1()
        },
        Instance {
            version: "1".repeat(17),
            ..inst1()
        },
        Instance {
            version: String::new(),
            ..inst1()
        },
    ] {
        assert_eq!(text(bad), None);
    }
}

#[test]
fn a_full_list_fits_one_datagram() {
    let many: Vec<_> = (0..2000)
        .map(|n| ilsung(&format!("I{n}"), Some(1433), None))
        .collect();
    let answer = Request::List.answer(&many).unwrap();
    assert!(answer.len() <= MAX_DATA_BYTES + 3);
    assert!(Request::List.parse_answer(&answer).unwrap().len() > 700);
}

macro_rules! accepted {
    ($($name:ident: $tail:expr => $check:expr;)*) => {$(
        #[test]
        fn $name() {
            let instance = parse_tail(&$tail).expect("accepted");
            let check: fn(&Instance) -> bool = $check;
            assert!(check(&instance), "{instance:?}");
        }
    )*};
}

macro_rules! refused {
    ($($name:ident: $tail:expr => $why:pat,)*) => {$(
        #[test]
        fn $name() {
            let result = parse_tail(&$tail);
            assert!(matches!(result, Err($why)), "{result:?}");
        }
    )*};
}

accepted! {
    standard_tcp: ";tcp;57137;;" => |i| *i == inst1();
    via_before_tcp: ";via;HOST,0:1433;tcp;57137;;" => |i| i.tcp == Some(57137) && i.via.is_some();
    np_tcp_via: r";np;\\.\pipe\q;tcp;57137;via;HOST,0:1433,1:7;;" => |i| {
        i.np.as_deref() == Some(r"\\.\pipe\q") && i.via.as_ref().unwrap().ports == [(0, 1433), (1, 7)]
    };
    via_only: ";via;HOST,0:1433;;" => |i| i.tcp.is_none() && i.via.as_ref().unwrap().netbios == "HOST";
    lower_or_upper_case_keys: ";TCP;57137;;" => |i| i.tcp == Some(57137);
    bv_with_5_values: ";bv;i;g;i;g;o;tcp;57137;;" => |i| *i == inst1();
    bv_with_3_values: ";bv;i;g;o;tcp;57137;;" => |i| *i == inst1();
    bv_with_empty_values: ";bv;;;;tcp;57137;;" => |i| *i == inst1();
    bv_last: ";tcp;57137;bv;i;g;o;;" => |i| *i == inst1();
    rpc: ";rpc;HOST;tcp;57137;;" => |i| *i == inst1();
    spx_and_adsp: ";spx;service;adsp;object;tcp;57137;;" => |i| *i == inst1();
    unknown_key: ";xyz;1;tcp;57137;;" => |i| *i == inst1();
    no_protocol_at_all: ";;" => |i| i.tcp.is_none();
    long_via: format!(";via;HOST{};;", ",0:1433".repeat(30)) => |i| i.via.as_ref().unwrap().ports.len() == 30;
}

refused! {
    no_terminator: ";tcp;57137" => BadAnswer::Grammar("terminator"),
    one_semicolon_only: ";tcp;57137;" => BadAnswer::Grammar("terminator"),
    trailing_nul: ";tcp;57137;;\0" => BadAnswer::Grammar(_),
    port_0: ";tcp;0;;" => BadAnswer::Port,
    port_70000: ";tcp;70000;;" => BadAnswer::Port,
    port_with_a_space: ";tcp; 1433;;" => BadAnswer::Port,
    port_with_a_sign: ";tcp;+1433;;" => BadAnswer::Port,
    port_missing: ";tcp;;" => BadAnswer::Grammar(_),
    two_tcp_pairs: ";tcp;1;tcp;2;;" => BadAnswer::Grammar("a protocol twice"),
    pipe_of_300_bytes: format!(";np;{};tcp;1;;", "p".repeat(300)) => BadAnswer::Parameter,
    via_of_300_bytes: format!(";via;H{};;", ",0:1433".repeat(50)) => BadAnswer::Parameter,
    via_in_the_old_form: ";viaHOST,0:1433;;" => BadAnswer::Grammar(_),
    via_without_port: ";via;HOST;;" => BadAnswer::Grammar("via"),
    via_with_nonsense: ";via;HOST,0:x;;" => BadAnswer::Grammar("via"),
    via_with_a_long_name: ";via;ABCDEFGHIJKLMNOP,0:1;;" => BadAnswer::Grammar("via"),
    answer_of_1100_bytes: format!(";np;{0};rpc;{0};spx;{0};adsp;{0};xyz;{0};;", "p".repeat(210)) => BadAnswer::TooLarge,
    answer_of_5000_bytes: format!(";np;{};;", "p".repeat(5000)) => BadAnswer::TooLarge,
}

#[test]
fn instance_name_of_the_answer() {
    let renamed = |name: &str| parse(&HEAD.replace("INST1", name).add_tail());
    assert!(renamed("iNsT1").is_ok(), "case-swapped");
    assert_eq!(renamed("OTHER"), Err(BadAnswer::Instance));
    let three = format!("{HEAD};tcp;1;;").repeat(3);
    assert_eq!(
        parse(&three),
        Err(BadAnswer::Instance),
        "three instances in one answer"
    );
    let listed = Request::List
        .parse_answer(&datagram(three.as_bytes()))
        .unwrap();
    assert_eq!(listed.len(), 3);
}

trait Tail {
    fn add_tail(&self) -> String;
}

impl Tail for String {
    fn add_tail(&self) -> String {
        format!("{self};tcp;57137;;")
    }
}

#[test]
fn other_fields_of_the_answer() {
    assert!(
        parse(&HEAD.replace("HOST", &"H".repeat(255)).add_tail()).is_ok(),
        "255-byte ServerName"
    );
    assert!(parse(&HEAD.replace("HOST", &"H".repeat(256)).add_tail()).is_err());
    assert!(
        parse(&HEAD.replace("15.0.2000.5", "fifteen").add_tail()).is_ok(),
        "non-numeric Version"
    );
    assert!(
        parse(&HEAD.replace(";No", ";Yes").add_tail())
            .unwrap()
            .clustered
    );
    assert!(
        !parse(&HEAD.to_owned().add_tail()).unwrap().clustered,
        "IsClustered No"
    );
    assert!(parse(&HEAD.replace(";No", ";Perhaps").add_tail()).is_err());
    assert!(parse(&HEAD.replace("InstanceName", "Instance").add_tail()).is_err());
}

#[test]
fn headers_of_the_answer() {
    let ask = Request::Instance("INST1".into());
    let good = datagram(format!("{HEAD};tcp;57137;;").as_bytes());
    assert!(ask.parse_answer(&good).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        ask.parse_answer(&bytes)
    };
    assert_eq!(with(0, 4), Err(BadAnswer::Type), "wrong type byte");
    assert_eq!(
        with(1, good[1] + 1),
        Err(BadAnswer::Short),
        "wrong RESP_SIZE"
    );
    assert_eq!(
        with(1, good[1] - 1),
        Err(BadAnswer::Long),
        "wrong RESP_SIZE"
    );
    assert_eq!(with(1, 0), Err(BadAnswer::Long), "RESP_SIZE 0");
    assert_eq!(
        ask.parse_answer(b""),
        Err(BadAnswer::Short),
        "empty datagram"
    );
    assert_eq!(
        ask.parse_answer(b"\x05\x00"),
        Err(BadAnswer::Short),
        "2-byte datagram"
    );
    assert_eq!(
        ask.parse_answer(b"\x05\x00\x00"),
        Err(BadAnswer::Short),
        "no data"
    );
    for cut in 0..good.len() {
        assert!(ask.parse_answer(&good[..cut]).is_err(), "cut at {cut}");
    }
    let nul = [&good[..], &[0]].concat();
    assert_eq!(ask.parse_answer(&nul), Err(BadAnswer::Long), "trailing NUL");
}

fn any_instance() -> impl Strategy<Value = Instance> {
    let via = (
        "[A-Z]{1,15}",
        prop::collection::vec(any::<(u32, u32)>(), 1..4),
    );
    let protocols = (
        prop::option::of(1u16..),
        prop::option::of(r"\\\\[a-z]{1,20}\\pipe\\[a-z$]{1,60}"),
        prop::option::of(via),
    );
    (
        "[A-Z0-9.-]{1,40}",
        "[A-Z0-9$_]{1,32}",
        any::<bool>(),
        "[0-9.]{1,16}",
        protocols,
    )
        .prop_map(
            |(server_name, instance_name, clustered, version, (tcp, np, via))| Instance {
                server_name,
                instance_name,
                clustered,
                version,
                tcp,
                np,
                via: via.map(|(netbios, ports)| Via { netbios, ports }),
                dac: None,
            },
        )
}

proptest! {
    #[test]
    fn nothing_makes_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse_dac(&bytes);
        if let Some(request) = Request::parse(&bytes) {
            let _ = request.encode();
        }
        for request in [Request::List, Request::Instance("x".into()), Request::Dac("x".into())] {
            let _ = request.parse_answer(&bytes);
        }
    }

    #[test]
    fn nothing_in_the_data_makes_a_parser_panic(data in "(ServerName|InstanceName|IsClustered|Version|Yes|No|tcp|np|via|bv|[,:a-z0-9\u{fe}]|;){0,80}") {
        let _ = Request::List.parse_answer(&datagram(data.as_bytes()));
        let _ = Request::List.parse_answer(&datagram(format!("{HEAD}{data}").as_bytes()));
    }

    #[test]
    fn answers_round_trip(instance in any_instance()) {
        let ask = Request::Instance(instance.instance_name.to_ascii_lowercase());
        let answer = ask.answer(std::slice::from_ref(&instance)).unwrap();
        prop_assert!(answer.len() <= MAX_UNICAST_DATAGRAM);
        prop_assert_eq!(ask.parse_answer(&answer).unwrap(), vec![instance]);
    }

    #[test]
    fn requests_round_trip(name in "[^\0]{1,8}", dac in any::<bool>()) {
        let request = if dac { Request::Dac(name) } else { Request::Instance(name) };
        prop_assert_eq!(Request::parse(&request.encode().unwrap()), Some(request));
    }
}
