use super::*;
use crate::control::{PeerStatus, RoleChange, ServerStatus, SessionStatus};

fn status() -> Status {
    Status {
        node: "node-b".into(),
        cluster: "lab".into(),
        pid: 7,
        version: "0.1.0".into(),
        started_ms: 1_000_500,
        servers: vec![ServerStatus {
            name: "sales".into(),
            role: "active".into(),
            peer_role: Some("passive".into()),
            generation: 1_795_368_001_514,
            since_ms: 1_002_000,
            health: "healthy".into(),
            upstream: "unix:/a<script>&\"b".into(),
            sessions: vec![SessionStatus {
                warm: false,
                standing: 0,
                channel: 9,
                transport: "tcp".into(),
                peer: "192.0.2.1:5".into(),
                since_ms: 1_003_000,
            }],
            accepted: 3,
            bytes_in: 10,
            bytes_out: 20,
            takeovers: 2,
            changes: vec![
                RoleChange {
                    at_ms: 1_002_250,
                    from: "taking-over".into(),
                    to: "active".into(),
                    generation: 1_795_368_001_514,
                    reason: "peer-lost".into(),
                    took_ms: Some(262),
                },
                RoleChange {
                    at_ms: 1_002_000,
                    from: "passive".into(),
                    to: "taking-over".into(),
                    generation: 5,
                    reason: "peer-lost".into(),
                    took_ms: None,
                },
            ],
        }],
        peers: vec![PeerStatus {
            node: "node-a".into(),
            addr: "192.0.2.11:1434".into(),
            state: "down".into(),
            heard_ms_ago: Some(1500),
        }],
    }
}

#[test]
fn metrics_say_what_the_status_says() {
    let text = metrics::text(&status());
    for line in [
        "vianet_node_info{node=\"node-b\",cluster=\"lab\",version=\"0.1.0\"} 1",
        "vianet_start_time_seconds 1000.5",
        "vianet_peer_up{peer=\"node-a\"} 0",
        "vianet_peer_heard_ago_seconds{peer=\"node-a\"} 1.5",
        "vianet_role{server=\"sales\",role=\"active\"} 1",
        "vianet_role{server=\"sales\",role=\"passive\"} 0",
        "vianet_generation{server=\"sales\"} 1795368001514",
        "vianet_role_start_time_seconds{server=\"sales\"} 1002.0",
        "vianet_server_healthy{server=\"sales\"} 1",
        "vianet_sessions{server=\"sales\",transport=\"tcp\"} 1",
        "vianet_sessions{server=\"sales\",transport=\"shm\"} 0",
        "vianet_channels_accepted_total{server=\"sales\"} 3",
        "vianet_relayed_bytes_total{server=\"sales\",direction=\"to_server\"} 10",
        "vianet_relayed_bytes_total{server=\"sales\",direction=\"to_client\"} 20",
        "vianet_takeovers_total{server=\"sales\"} 2",
        "vianet_last_takeover_time_seconds{server=\"sales\"} 1002.25",
        "vianet_last_takeover_duration_seconds{server=\"sales\"} 0.262",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_page_shows_everything_and_no_markup_of_others() {
    let page = page::html(&status(), 1_010_000);
    for part in [
        "node-b of cluster lab",
        "node-a",
        "1500 ms ago",
        "<h2>sales</h2>",
        ">active</span> for 8 s",
        ">passive</span>",
        "1795368001514",
        "unix:/a&lt;script&gt;&amp;&quot;b",
        "peer-lost",
        "262 ms",
        "192.0.2.1:5",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("<script"));
}

#[test]
fn only_reading_and_only_what_there_is() {
    let get = |method: &str, path: &str| {
        let (method, path) = (method.into(), path.into());
        let answer = answer(&Head { method, path }, || Ok(status()));
        String::from_utf8(answer.bytes()).unwrap()
    };
    assert!(get("GET", "/").starts_with("HTTP/1.1 200 OK\r\n"));
    let json = get("GET", "/status");
    let (_, body) = json.split_once("\r\n\r\n").unwrap();
    assert_eq!(serde_json::from_str::<Status>(body).unwrap(), status());
    assert!(get("HEAD", "/metrics").ends_with("\r\n\r\n"));
    assert!(get("POST", "/").contains("405 Method Not Allowed\r\n"));
    assert!(get("GET", "/../etc/passwd").contains("404 Not Found\r\n"));
    let silent = answer(
        &Head {
            method: "GET".into(),
            path: "/".into(),
        },
        || Err("the daemon did not answer in time".into()),
    );
    assert_eq!(silent.code, 503);
}
