//! How long the parts of failovers took: what the library says in its log, held beside what the nodes say in theirs.

use std::fs;
use std::path::Path;

pub const PARTS: [&str; 7] = [
    "detection",
    "takeover",
    "resolution",
    "turn",
    "connect",
    "login",
    "restore",
];

/// Which of them is the wait for one's turn.
const TURN: usize = 3;

/// One session's move. All in milliseconds.
#[derive(Clone, Debug)]
pub struct Sample {
    /// As in [`PARTS`].
    pub parts: [f64; 7],
    /// From the moment at which the second server could be written to (or at which the loss was decided upon, if that came
    /// later) until the session went on, its wait for its turn left out. `None` where no hook of the node made it so.
    pub added: Option<f64>,
    /// The session had waited there.
    pub warm: bool,
}

/// All moves of the clients whose logs are in `clients`.
pub fn read(clients: &Path, lab: &Path) -> Vec<Sample> {
    let nodes =
        ["node-a", "node-b"].map(|node| Node::read(&lab.join(node).join("daemon.log"), node));
    let logs = fs::read_dir(clients).into_iter().flatten().flatten();
    let logs = logs.filter(|entry| entry.path().extension().is_some_and(|it| it == "log"));
    let texts = logs.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default());
    let mut all = Vec::new();
    for text in texts {
        let mut node = "";
        for line in text.lines() {
            if let Some((_, rest)) = line.split_once(": connected to ") {
                node = rest.split(' ').next().unwrap_or_default();
            }
            let Some((_, rest)) = line.split_once(": failover: ") else {
                continue;
            };
            let Some((at, parts)) = seconds(line).zip(parts(rest)) else {
                continue;
            };
            let begun = at * 1000.0 - parts[1..].iter().sum::<f64>();
            let turn = parts[TURN];
            let node = nodes.iter().find(|it| it.name == node);
            let writable = node.and_then(|node| node.writable_before(at * 1000.0));
            all.push(Sample {
                parts,
                added: writable.map(|writable| at * 1000.0 - writable.max(begun) - turn),
                warm: rest.ends_with(", warm"),
            });
        }
    }
    all
}

fn seconds(line: &str) -> Option<f64> {
    line.split(' ').next()?.parse().ok()
}

/// `detection 1.00 ms, takeover ...`.
fn parts(text: &str) -> Option<[f64; 7]> {
    let mut all = [0.0; 7];
    for ((part, name), slot) in text.split(", ").zip(PARTS).zip(&mut all) {
        let number = part.strip_prefix(name)?.strip_suffix(" ms")?;
        *slot = number.trim().parse().ok()?;
    }
    Some(all)
}

/// What a node's log says of its takeovers.
struct Node {
    name: &'static str,
    /// When the last hook before each change to active had done its work, and when the change was. Milliseconds since 1970.
    takeovers: Vec<(Option<f64>, f64)>,
}

impl Node {
    fn read(log: &Path, name: &'static str) -> Self {
        let text = fs::read_to_string(log).unwrap_or_default();
        let (mut takeovers, mut hook) = (Vec::new(), None);
        for line in text.lines() {
            let is_hook = ["promote", "fence"].map(|hook| format!("hook=\"{hook}\""));
            if line.contains("event=\"hook\"") && is_hook.iter().any(|hook| line.contains(hook)) {
                hook = instant(line);
            }
            if line.contains("event=\"role\"") && line.contains(" to=\"active\"") {
                let active = instant(line);
                takeovers.extend(active.map(|active| (hook.take(), active)));
            }
        }
        Self { name, takeovers }
    }

    fn writable_before(&self, at: f64) -> Option<f64> {
        let last = self
            .takeovers
            .iter()
            .rev()
            .find(|(_, active)| *active <= at)?;
        // The loss of long ago is none of this move's.
        last.0.filter(|hook| at - hook < 60_000.0)
    }
}

/// `2026-11-28T07:23:28.908612Z` of a log's line, in milliseconds since 1970.
fn instant(line: &str) -> Option<f64> {
    let (date, time) = line
        .split(' ')
        .next()?
        .trim_end_matches('Z')
        .split_once('T')?;
    let mut date = date.split('-').map(|n| n.parse::<i64>().ok());
    let mut time = time.split(':');
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (hours, minutes): (f64, f64) = (time.next()?.parse().ok()?, time.next()?.parse().ok()?);
    let seconds: f64 = time.next()?.parse().ok()?;
    // Days since 1970: years begin in March, so that a leap day is the last.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24) as f64 + hours) * 3_600_000.0 + minutes * 60_000.0 + seconds * 1000.0)
}

/// Median, 99th percentile and largest.
pub fn of(mut numbers: Vec<f64>) -> Option<[f64; 3]> {
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len().checked_sub(1)?;
    let at = |share: f64| numbers[(last as f64 * share).round() as usize];
    Some([at(0.5), at(0.99), numbers[last]])
}

#[test]
fn times_of_a_log_are_read() {
    assert_eq!(instant("1970-01-01T00:00:01.500000Z  INFO"), Some(1500.0));
    assert_eq!(
        instant("2026-11-28T07:23:28.908612Z INFO x"),
        Some(1_795_850_608_908.612)
    );
    let text = "detection 1.00 ms, takeover 2.50 ms, resolution 3.00 ms, turn 3.50 ms, connect 4.00 ms, login 5.00 ms, restore 6.00 ms";
    assert_eq!(parts(text), Some([1.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0]));
    assert_eq!(of(vec![3.0, 1.0, 2.0]), Some([2.0, 3.0, 3.0]));
}
