//! What the device does by itself: ib_write_lat and ib_write_bw of perftest, which spin without pause.

use super::Work;
use crate::bench::tie;
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Microseconds of a round trip, or MiB/s.
pub struct Floor {
    /// The typical one.
    pub typical: f64,
    /// The 99th percentile; streams have none.
    pub p99: Option<f64>,
}

/// Runs the program for `work` on both sides.
///
/// # Errors
/// Why there is no figure.
pub fn measure(device: &str, address: IpAddr, work: Work) -> Result<Floor, String> {
    let (program, size, count) = match work {
        Work::Trips(size) => ("ib_write_lat", size, if size > 4096 { 200 } else { 1000 }),
        Work::Stream(size) => ("ib_write_bw", size, 500),
    };
    let mut why = String::new();
    // A port of its own each time: the last one may not be free yet.
    for attempt in 0..3 {
        let port = 18600 + u32::from(attempt > 0) * 50 + size.ilog2() + attempt;
        let command = || {
            let mut command = Command::new(program);
            command.args(["-d", device, "-R", "-F", "-p", &port.to_string()]);
            command.args(["-s", &size.to_string(), "-n", &count.to_string()]);
            tie(&mut command).stdin(Stdio::null());
            command
        };
        let server = command()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("{program}: {e}"))?;
        let _server = Server(server);
        // It does not say when it listens.
        std::thread::sleep(Duration::from_secs(1 << attempt));
        let output = command()
            .arg(address.to_string())
            .output()
            .map_err(|e| format!("{program}: {e}"))?;
        if let Some(floor) = read(&output, work) {
            return Ok(floor);
        }
        why = String::from_utf8_lossy(&output.stderr).trim().into();
    }
    Err(format!(
        "{program}: {}",
        why.lines().last().unwrap_or("no figures").trim()
    ))
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The line of figures: the only one that consists of numbers.
fn read(output: &Output, work: Work) -> Option<Floor> {
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers = |line: &str| {
        let parsed: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        parsed.ok().filter(|n| n.len() >= 4)
    };
    let figures = text.lines().find_map(numbers)?;
    match work {
        // bytes, iterations, then half a round trip: least, most, typical, average, deviation, 99 %
        Work::Trips(_) => Some(Floor {
            typical: 2.0 * figures.get(4)?,
            p99: figures.get(7).map(|half| 2.0 * half),
        }),
        // bytes, iterations, peak, average
        Work::Stream(_) => Some(Floor {
            typical: *figures.get(3)?,
            p99: None,
        }),
    }
}
