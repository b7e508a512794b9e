//! A SQL Browser as [MC-SQLR] describes it, to stand in for the real one: it knows nothing of vianet.
//!
//! It answers CLNT_UCAST_EX, CLNT_BCAST_EX and CLNT_UCAST_INST, and keeps silent about everything else (3.2.5.1).

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One instance on the machine: name and TCP port.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `InstanceName`.
    pub name: String,
    /// `tcp`.
    pub port: u16,
}

/// What the answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Right.
    None,
    /// Two bytes.
    Short,
    /// The size field says less than there is.
    SizeTooSmall,
    /// The size field says more than there is (the datagram is truncated).
    SizeTooLarge,
    /// Not SVR_RESP.
    WrongType,
    /// 70,000 as a port.
    ImpossiblePort,
    /// The data is longer than 1,024 bytes.
    TooLong,
    /// From another port than the one asked.
    OtherSource,
}

/// A running stand-in; ends when dropped.
pub struct SqlBrowser {
    stop: Arc<AtomicBool>,
    instances: Arc<Mutex<Vec<Instance>>>,
    fault: Arc<Mutex<Fault>>,
    asked: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl SqlBrowser {
    /// Listens on UDP `addr`.
    pub fn start(addr: SocketAddr, instances: Vec<Instance>) -> Self {
        let socket = UdpSocket::bind(addr).unwrap_or_else(|e| panic!("{addr}: {e}"));
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("not zero");
        let browser = Self {
            stop: Arc::default(),
            instances: Arc::new(Mutex::new(instances)),
            fault: Arc::new(Mutex::new(Fault::None)),
            asked: Arc::default(),
        };
        let (stop, instances) = (browser.stop.clone(), browser.instances.clone());
        let (fault, asked) = (browser.fault.clone(), browser.asked.clone());
        std::thread::spawn(move || {
            let mut buf = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                let Ok((len, client)) = socket.recv_from(&mut buf) else {
                    continue;
                };
                let request = &buf[..len];
                asked.lock().unwrap().push(request.to_vec());
                let instances = instances.lock().unwrap().clone();
                if let Some(data) = response_data(request, &instances) {
                    let fault = *fault.lock().unwrap();
                    let packet = packet(data, fault);
                    if fault == Fault::OtherSource {
                        let other = UdpSocket::bind((addr.ip(), 0)).expect("a free port");
                        let _ = other.send_to(&packet, client);
                    } else {
                        let _ = socket.send_to(&packet, client);
                    }
                }
            }
        });
        browser
    }

    /// The instances from now on.
    pub fn set_instances(&self, instances: Vec<Instance>) {
        *self.instances.lock().unwrap() = instances;
    }

    /// How answers are spoilt from now on.
    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Vec<u8>> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for SqlBrowser {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn response_data(request: &[u8], instances: &[Instance]) -> Option<String> {
    let chosen: Vec<_> = match request {
        [0x02] | [0x03] => instances.iter().collect(),
        [0x04, name @ ..] => {
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            let name = std::str::from_utf8(&name[..end]).ok()?;
            instances
                .iter()
                .filter(|i| i.name.eq_ignore_ascii_case(name))
                .take(1)
                .collect()
        }
        _ => return None,
    };
    if chosen.is_empty() {
        return None;
    }
    Some(
        chosen
            .iter()
            .map(|i| {
                format!(
                    "ServerName;STANDIN;InstanceName;{};IsClustered;No;Version;16.0.1000.6;tcp;{};;",
                    i.name, i.port
                )
            })
            .collect(),
    )
}

fn packet(data: String, fault: Fault) -> Vec<u8> {
    let data = match fault {
        Fault::ImpossiblePort => {
            let tcp = data.find(";tcp;").expect("we wrote it");
            format!("{};tcp;70000;;", &data[..tcp])
        }
        Fault::TooLong => data.replace("STANDIN", &"S".repeat(1_100)),
        _ => data,
    };
    let size = match fault {
        Fault::SizeTooSmall => data.len() - 5,
        Fault::SizeTooLarge => data.len() + 5,
        _ => data.len(),
    } as u16;
    let kind = if fault == Fault::WrongType {
        0x06
    } else {
        0x05
    };
    let mut packet = vec![kind];
    packet.extend(size.to_le_bytes());
    packet.extend(data.into_bytes());
    if fault == Fault::Short {
        packet.truncate(2);
    }
    packet
}
