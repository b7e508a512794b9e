//! Both sides of a PostgreSQL login that the relay watches: no panic, and nobody is let in without a challenge.
#![no_main]

use libfuzzer_sys::fuzz_target;

// Private to the node; it needs nothing but the standard library and ours.
#[allow(dead_code)]
#[path = "../../node/src/relay/pg_login.rs"]
mod pg_login;

use pg_login::{Client, Login, Server};

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, cut], rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let mut login = if choice & 1 == 0 { Login::default() } else { Login::guess() };
    let (client, server) = rest.split_at(usize::from(cut).min(rest.len()));
    match login.client(client) {
        Client::Wait(more) => assert!(more > 0),
        Client::Encryption(bytes) => {
            assert!(bytes <= client.len());
            // Half of the time the server is asked, else the client is told "no".
            if choice & 2 != 0 {
                login.asks();
            }
        }
        Client::Ticket(bytes) | Client::Arrival(bytes) => assert!(bytes <= client.len()),
        Client::Started => assert!(login.started()),
        Client::Cancel | Client::Unwatched | Client::Recognised | Client::Refuse(_) => {}
    }
    match login.server(server) {
        Server::Pass(bytes) => assert!(bytes <= server.len()),
        Server::Proven => assert!(login.challenged()),
        Server::Encrypts => assert!(login.asking()),
        Server::Refuse(why) => assert!(!pg_login::refusal(why, "node-a").is_empty()),
    }
});
