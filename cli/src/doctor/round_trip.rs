//! A listener and a client of the RDMA provider in this process, and messages between them.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::task::Poll;
use std::time::{Duration, Instant};
use vianet::resolve::Endpoint;
use vianet::resolve::identity::random_bytes;
use vianet::via::channel::{Received, Wait};
use vianet::via::rdma::{RING_BYTES, Rdma};
use vianet::via::{
    Accept, Broken, Channel, ConnectError, ConnectRequest, Connecting, ListenConfig, Listener,
    Provider, Transport,
};

/// Of each step.
const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "vianet-doctor";
/// Bytes of a message; the first trip is not counted.
const MESSAGE: usize = 64;
const TRIPS: usize = 101;

/// The median round trip of 64 bytes over the device that has `address`.
///
/// # Errors
/// Which step failed, and why.
pub fn run(address: IpAddr) -> Result<Duration, String> {
    let (client, server) = connect(address)?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&server));
        let measured = measure(&client);
        let ended = client.shutdown_write();
        let echoed = echo
            .join()
            .unwrap_or_else(|_| Err("the far side panicked".into()));
        let measured = measured?;
        echoed?;
        ended.map_err(|e| format!("ending the stream: {}", in_words(e)))?;
        Ok(measured)
    })
}

fn connect(address: IpAddr) -> Result<(Channel, Channel), String> {
    let config = ListenConfig {
        addrs: vec![SocketAddr::new(address, 0)],
        shm_dir: "/nonexistent".into(),
        node: NAME.into(),
        signer: None,
        tls: vianet::via::Tls::Auto,
        channels_per_peer: 1,
        max_ring_bytes: RING_BYTES,
    };
    let mut listener = Rdma.listen(&config).map_err(|e| e.to_string())?;
    let addr = listener.local_addrs().first().copied();
    let addr = addr.ok_or("the listener has no address")?;
    let request = ConnectRequest {
        patient: false,
        warm: false,
        server: NAME.into(),
        node: NAME.into(),
        endpoint: Endpoint {
            transport: Transport::Rdma,
            addr,
        },
        min_generation: 0,
        pinned: None,
        tls: vianet::via::Tls::Auto,
        shm_dir: "/nonexistent".into(),
        ring_bytes: RING_BYTES,
        bell: None,
        resume: None,
        nonce: None,
    };
    let mut connecting = Rdma.connect(request).map_err(refused)?;
    let (mut client, mut server) = (None, None);
    let until = Instant::now() + PATIENCE;
    loop {
        if client.is_none()
            && let Poll::Ready(connected) = connecting.advance()
        {
            client = Some(connected.map_err(refused)?);
        }
        if server.is_none()
            && let Some(incoming) = listener.poll().map_err(|e| format!("listening: {e}"))?
        {
            let accepted = incoming.accept(accept()?, None);
            server = Some(accepted.map_err(|e| format!("accepting: {e}"))?);
        }
        match (client.take(), server.take()) {
            (Some(client), Some(server)) => return Ok((client, server)),
            halves => (client, server) = halves,
        }
        if Instant::now() > until {
            return Err(format!("no connection within {} s", PATIENCE.as_secs()));
        }
        wait(&*listener, client.is_none().then_some(&*connecting));
    }
}

/// Until either has something to do, a moment at the longest.
fn wait(listener: &dyn Listener, connecting: Option<&dyn Connecting>) {
    let mut fds = vec![PollFd::from_borrowed_fd(listener.wait_fd(), PollFlags::IN)];
    if let Some(connecting) = connecting {
        let interest = connecting.interest();
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, interest.read);
        flags.set(PollFlags::OUT, interest.write);
        fds.push(PollFd::from_borrowed_fd(connecting.wait_fd(), flags));
    }
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    // An interrupted wait is repeated by the loop.
    let _ = poll(&mut fds, Some(&moment));
}

fn accept() -> Result<Accept, String> {
    Ok(Accept {
        node: NAME.into(),
        generation: 1,
        cluster_id: *b"vianet doctor   ",
        channel_id: 1,
        resume_secret: random_bytes().map_err(|e| e.to_string())?,
        authentic: false,
    })
}

fn measure(channel: &Channel) -> Result<Duration, String> {
    channel.activate();
    let mut took = Vec::new();
    for trip in 0..TRIPS {
        let sent = [trip as u8; MESSAGE];
        let mut got = [0; MESSAGE];
        let start = Instant::now();
        put(channel, &sent)?;
        let mut have = 0;
        while have < MESSAGE {
            match get(channel, &mut got[have..])? {
                0 => return Err("the stream ended early".into()),
                n => have += n,
            }
        }
        took.push(start.elapsed());
        if got != sent {
            return Err(format!("round trip {trip} brought back other bytes"));
        }
    }
    let took = &mut took[1..];
    took.sort();
    Ok(took[took.len() / 2])
}

fn echo(channel: &Channel) -> Result<(), String> {
    channel.activate();
    let mut buffer = [0; MESSAGE];
    loop {
        match get(channel, &mut buffer)? {
            0 => break,
            n => put(channel, &buffer[..n])?,
        }
    }
    channel.shutdown_write().map_err(in_words)
}

fn patient() -> Wait {
    Wait::Until {
        spin: Duration::from_micros(50),
        timeout: Some(PATIENCE),
    }
}

fn put(channel: &Channel, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        match channel.send(&[IoSlice::new(bytes)], patient()) {
            Ok(0) => return Err(format!("nothing was sent within {} s", PATIENCE.as_secs())),
            Ok(n) => bytes = &bytes[n..],
            Err(e) => return Err(in_words(e)),
        }
    }
    Ok(())
}

/// 0 at the end of the stream.
fn get(channel: &Channel, buffer: &mut [u8]) -> Result<usize, String> {
    loop {
        match channel.recv(buffer, patient()).map_err(in_words)? {
            Received::Bytes(n) => return Ok(n),
            Received::End => return Ok(0),
            Received::Interrupted => {}
            Received::Empty => {
                return Err(format!("nothing came within {} s", PATIENCE.as_secs()));
            }
        }
    }
}

fn in_words(broken: Broken) -> String {
    match broken {
        Broken::Transport(why) | Broken::Corrupt(why) => why,
        Broken::Ended(reason) => format!("ended: {reason:?}"),
    }
}

fn refused(error: ConnectError) -> String {
    match error {
        ConnectError::Unavailable(why)
        | ConnectError::Failed(why)
        | ConnectError::NotAuthentic(why) => why,
        ConnectError::Rejected(reason) => format!("rejected: {reason:?}"),
    }
}
