//! Programs that know nothing of vianet find servers through our responder. (The reverse: `foreign_browser.rs`.)
//!
//! UDP 1434 is fixed in every such client, so each test has loopback addresses of its own.

mod support;

use async_trait::async_trait;
use mssql_browser::custom_socket::{self, UdpSocketFactory};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use support::cluster::{Cluster, Plan, answer, ask};
use support::programs::{both, built, command, installed, run_well, run_within, scratch, skip};
use support::sql_browser::{Instance, SqlBrowser};
use support::tds::TdsServer;

/// FreeTDS alone may take 16 s for a name that nobody knows.
const LIMIT: Duration = Duration::from_secs(120);

/// Two nodes that serve `sales`; a small TDS server that answers 41 stands beside node-a.
fn sales(subnet: u8) -> (Cluster, TdsServer) {
    let tds = TdsServer::start(SocketAddr::from(([127, 0, subnet, 11], 0)), 41);
    let mut plan = Plan::new(subnet, tds.addr());
    plan.servers[0].0 = "sales".into();
    plan.server_lines = format!(
        "advertise_np = '\\\\node\\pipe\\sales'\nadvertise_dac = '127.0.{subnet}.11:57138'"
    );
    (Cluster::start(plan), tds)
}

#[test]
fn tsql_lists_the_instances() {
    assert!(installed("tsql"), "tsql is missing: run `make tools`");
    let (cluster, tds) = sales(70);
    // FreeTDS prints the list on standard error.
    let text = both(&run_within(
        LIMIT,
        command("tsql").args(["-LH", &cluster.addr(0).to_string()]),
    ));
    eprintln!("{text}");
    assert!(!text.contains("error"), "{text}");
    let field = |name: &str, value: &str| {
        text.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(name) && words.next() == Some(value)
        })
    };
    assert!(field("InstanceName", "sales"), "{text}");
    assert!(field("tcp", &tds.addr().port().to_string()), "{text}");
    assert!(text.contains("via"), "{text}");
    // The passive node has nothing to list and is silent (MC-SQLR 3.2.5.1).
    assert_eq!(ask(cluster.query_addr(1), &[0x03]), None);
}

#[test]
fn tsql_connects_by_instance_name() {
    assert!(installed("tsql"), "tsql is missing: run `make tools`");
    let (cluster, tds) = sales(71);
    assert_eq!(tsql(&format!("{}\\sales", cluster.addr(0))), 41);
    assert_eq!(
        tsql(&format!("{}\\SALES", cluster.addr(0))),
        41,
        "names have no case"
    );
    assert_eq!(tds.logins(), 2);
}

/// `SELECT` by tsql with a server's full name.
fn tsql(server: &str) -> i32 {
    let mut tsql = command("sh");
    tsql.args([
        "-c",
        r#"printf 'select 1\ngo\nexit\n' | tsql -S "$1" -U sa -P x -o fq"#,
        "sh",
        server,
    ]);
    let text = run_well(LIMIT, &mut tsql);
    text.lines()
        .find_map(|line| line.trim().parse().ok())
        .unwrap_or_else(|| panic!("no number in what tsql printed:\n{text}"))
}

#[test]
fn python_tds_connects_by_instance_name() {
    let Some(python) = python_with("python-tds", "pytds") else {
        return skip("python-tds cannot be installed here (offline, or no python3-venv)");
    };
    let (cluster, _tds) = sales(72);
    let script = format!(
        "import pytds\n\
         c = pytds.connect(dsn=r'{}\\sales', user='sa', password='x', login_timeout=30)\n\
         k = c.cursor(); k.execute('select 1'); print(k.fetchone()[0])",
        cluster.addr(0)
    );
    let text = run_well(LIMIT, command(python).args(["-c", &script]));
    assert_eq!(text, "41\n");
}

/// A Python with `package`, in an environment inside `target/`.
fn python_with(package: &str, module: &str) -> Option<std::path::PathBuf> {
    let env = scratch().join(format!("venv-{package}"));
    let python = env.join("bin/python");
    let works = || {
        let check = format!("import {module}");
        python.exists()
            && run_within(LIMIT, command(&python).args(["-c", &check]))
                .status
                .success()
    };
    if !works() {
        let made = run_within(LIMIT, command("python3").args(["-m", "venv"]).arg(&env));
        if !made.status.success() {
            return None;
        }
        // Without a network it fails, and the test is skipped.
        let mut pip = command("timeout");
        pip.arg("60").arg(&python).args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--retries=0",
            "--timeout=10",
            package,
        ]);
        let _ = run_within(LIMIT, &mut pip);
    }
    works().then_some(python)
}

/// Our own command asks as those clients do.
#[test]
fn vianet_resolve_asks_by_ssrp() {
    let (cluster, tds) = sales(69);
    let vianet = |args: &[&str]| {
        let mut vianet = command(built("vianet"));
        vianet.args(["resolve", "--json"]).args(args);
        run_within(LIMIT, &mut vianet)
    };
    let json = |args: &[&str]| -> serde_json::Value {
        let output = vianet(args);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{args:?}: {e}\n{}", both(&output)))
    };
    let host = cluster.addr(0).to_string();
    let listed = json(&["--list", &host]);
    assert_eq!(listed["host"], host);
    assert_eq!(listed["instance"], "sales");
    assert_eq!(listed["tcp"], tds.addr().port());
    assert_eq!(listed["via"][0], "0:7434");
    assert_eq!(json(&["--dac", &format!("{host}\\sales")])["dac"], 57138);
    // Who does not have it is silent, and who is not there says so.
    let short = |args: &[&str]| vianet(&[args, &["--deadline-ms", "300"]].concat());
    let silent = both(&short(&["--dac", &format!("{host}\\nosuch")]));
    assert!(silent.contains("no answer"), "{silent}");
    let nobody = both(&short(&["--list", "127.0.69.99"]));
    assert!(nobody.contains("refused"), "{nobody}");

    // 127.255.255.255 is loopback's broadcast address; who listens for broadcasts answers from an address of its own.
    let probe = UdpSocket::bind("127.255.255.255:0").expect("a free port");
    let at = probe.local_addr().expect("bound");
    drop(probe);
    let instances = ["one", "two"].map(|name| Instance {
        name: name.into(),
        port: 1,
    });
    let browser = SqlBrowser::start(at, instances.into());
    let output = short(&["--broadcast", &at.to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut names = said.lines().map(|line| {
        let one: serde_json::Value = serde_json::from_str(line).expect("one object a line");
        one["instance"].as_str().expect("a name").to_owned()
    });
    assert_eq!(names.next().as_deref(), Some("one"), "{}", both(&output));
    assert_eq!(names.next().as_deref(), Some("two"));
    assert_eq!(names.next(), None, "each is printed once");
    assert!(browser.asked().iter().all(|request| request == &[0x02]));
}

/// The only independent parser of the `via` element.
#[test]
fn mssql_browser_parses_every_element() {
    let (cluster, tds) = sales(73);
    let node = IpAddr::V4(cluster.addr(0));
    let one = block_on(custom_socket::browse_instance(node, "sales", &mut Sockets))
        .expect("the crate understands our answer");
    assert_eq!(one.instance_name, "sales");
    assert!(one.is_clustered);
    assert_eq!(one.tcp_info.expect("tcp").port, tds.addr().port());
    assert_eq!(one.np_info.expect("np").name, "\\\\node\\pipe\\sales");
    let via = one.via_info.expect("via");
    assert_eq!(via.machine_name, "node-a");
    let ports: Vec<_> = via.addresses.iter().map(|a| (&*a.nic, &*a.port)).collect();
    assert_eq!(ports, [("0", "7434")]);

    let mut all = block_on(custom_socket::browse_host(node, &mut Sockets)).expect("a list");
    let first = all.next().expect("well formed").expect("one instance");
    assert_eq!(first.instance_name, "sales");
    assert!(all.next().expect("well formed").is_none());
}

/// The crate is asynchronous over sockets of one's own; these block, so that no runtime is needed.
struct Sockets;
struct Blocking(UdpSocket);

#[async_trait]
impl UdpSocketFactory for Sockets {
    type Socket = Blocking;
    type Error = io::Error;

    async fn bind(&mut self, addr: &SocketAddr) -> io::Result<Blocking> {
        let socket = UdpSocket::bind(addr)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Blocking(socket))
    }
}

#[async_trait]
impl custom_socket::UdpSocket for Blocking {
    type Error = io::Error;

    async fn enable_broadcast(&mut self) -> io::Result<()> {
        self.0.set_broadcast(true)
    }

    async fn connect(&mut self, addr: &SocketAddr) -> io::Result<()> {
        self.0.connect(addr)
    }

    async fn send(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf)
    }

    async fn send_to(&mut self, buf: &[u8], _connected: &SocketAddr) -> io::Result<usize> {
        self.0.send(buf)
    }

    async fn recv(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.recv(buf)
    }

    async fn recv_from(&mut self, buf: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buf)
    }
}

/// Runs a future that never waits.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("its sockets block"),
    }
}

/// What the specification's own examples ask, byte for byte, and what must be met by silence.
#[test]
fn the_responder_follows_the_specification() {
    let (cluster, tds) = sales(74);
    let node = cluster.query_addr(0);
    let expected = format!(
        "ServerName;node-a;InstanceName;sales;IsClustered;Yes;Version;15.0;tcp;{};np;\\\\node\\pipe\\sales;\
         via;node-a,0:7434;;",
        tds.addr().port()
    );
    let mut packet = vec![0x05];
    packet.extend((expected.len() as u16).to_le_bytes());
    packet.extend(expected.bytes());
    for request in [
        &b"\x04sales\0"[..],
        b"\x04sales",
        b"\x04SALES\0",
        b"\x03",
        b"\x02",
    ] {
        let answer = answer(node, request);
        assert_eq!(
            String::from_utf8_lossy(&answer),
            String::from_utf8_lossy(&packet),
            "{request:02x?}"
        );
    }
    for request in [&b"\x0f\x01sales\0"[..], b"\x0f\x01SALES"] {
        let dac = answer(node, request);
        assert_eq!(dac, b"\x05\x06\x00\x01\x32\xdf");
    }
    let long = [&[0x04][..], &[b'x'; 33], &[0]].concat();
    let silent: [&[u8]; 9] = [
        b"",
        b"\x04nosuch\0",
        b"\x04\0",
        b"\x05\x01\x00x",
        b"\x0a",
        b"\x03\x03",
        b"\x0f\x02sales\0",
        b"\x0f\x01nosuch\0",
        &long,
    ];
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("not zero");
    for request in silent {
        socket.send_to(request, node).expect("sent");
    }
    // Datagrams between two sockets of one host stay in order: the first answer is that to the last request.
    socket.send_to(b"\x04sales\0", node).expect("sent");
    let mut buf = [0; 2048];
    let len = socket.recv(&mut buf).expect("an answer");
    assert_eq!(
        &buf[..len],
        packet,
        "something that must be met by silence was answered"
    );
    socket
        .set_read_timeout(Some(Duration::from_millis(300)))
        .expect("not zero");
    assert!(socket.recv(&mut buf).is_err(), "one request, two answers");
}
