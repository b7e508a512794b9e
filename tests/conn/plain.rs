//! A foreign SQL Browser answers: an ordinary TCP connection.

use super::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};

/// Answers every SSRP question for an instance with the tcp port of `server`, and nothing else.
fn browser(port: u16) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            if n < 2 || buffer[0] != 4 {
                continue;
            }
            let name = String::from_utf8_lossy(&buffer[1..n - 1]).into_owned();
            let text = format!(
                "ServerName;HOST;InstanceName;{name};IsClustered;No;Version;15.0.2000.5;tcp;{port};;"
            );
            let mut answer = vec![5];
            answer.extend_from_slice(&(text.len() as u16).to_le_bytes());
            answer.extend_from_slice(text.as_bytes());
            let _ = socket.send_to(&answer, from);
        }
    });
    addr
}

fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(n) = client.read(&mut buffer) {
                    if n == 0 || client.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Write);
            });
        }
    });
    port
}

#[test]
fn an_ordinary_connection_behind_the_same_calls() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("client.toml");
    let browser = browser(echo_server());
    std::fs::write(
        &config,
        format!("[clusters.plain]\nnodes = [\"{browser}\"]\n"),
    )
    .unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let fd = conn::connect("plain\\sql", &options).unwrap();
    let info = conn::find(fd).unwrap().info();
    assert_eq!(info.transport, Some(Transport::Plain));
    assert!(
        info.why_not_better.contains("tcp: not offered"),
        "{}",
        info.why_not_better
    );
    let data: Vec<u8> = (0..5_000_000_u32).map(|i| (i % 241) as u8).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| send_all(fd, &data));
        assert!(recv_exactly(fd, data.len()) == data);
    });
    nonblocking(fd, true);
    for round in 0..100 {
        send_all(fd, b"ping");
        assert_eq!(
            poll_one(fd, libc::POLLIN, 20_000),
            libc::POLLIN,
            "round {round}"
        );
        let mut got = 0;
        while got < 4 {
            match conn::find(fd).unwrap().recv(&mut [0; 4], 0) {
                Ok(n) => got += n,
                Err(_) => assert!(poll_one(fd, libc::POLLIN, 20_000) != 0),
            }
        }
    }
    nonblocking(fd, false);
    conn::find(fd).unwrap().shutdown(conn::How::Write).unwrap();
    assert_eq!(conn::find(fd).unwrap().recv(&mut [0; 4], 0).unwrap(), 0);
    conn::close(fd).unwrap();
}

#[test]
fn a_slow_reader_stops_the_server_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("client.toml");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 239) as u8).collect();
    let sent = data.clone();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let _ = client.write_all(&sent);
    });
    let text = format!("[clusters.slow]\nnodes = [\"{}\"]\n", browser(port));
    std::fs::write(&config, text).unwrap();
    let options = Options {
        config: Some(config),
        ..Options::default()
    };
    let fd = conn::connect("slow\\sql", &options).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    nonblocking(fd, true);
    let mut got = Vec::new();
    let mut buffer = [0; 10_000];
    loop {
        match conn::find(fd).unwrap().recv(&mut buffer, 0) {
            Ok(0) => break,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(error) => {
                assert_eq!(error.errno(), libc::EAGAIN);
                assert!(
                    poll_one(fd, libc::POLLIN, 20_000) != 0,
                    "stuck at {}",
                    got.len()
                );
            }
        }
    }
    assert!(got == data, "{} bytes came", got.len());
    conn::close(fd).unwrap();
}
