//! Where sessions may wait beside a standby (`driver/warm`): one question to the nodes for all connections of the process, and few
//! sessions are made there at a time. There may be thousands, and nothing of this is urgent.

use super::asker::Asker;
use crate::config::Cluster;
use crate::resolve::name::ServerName;
use crate::resolve::{Answer, ClusterId, Generation, Role};
use std::collections::HashMap;
use std::task::Poll;
use std::time::Duration;

/// How long what was answered is good.
const GOOD: Duration = Duration::from_secs(1);
/// So many are made at a time.
const AT_ONCE: usize = 4;

/// See the module's text. The I/O thread's.
#[derive(Default)]
pub struct Standbys {
    asked: HashMap<String, Asked>,
    /// Who is being made, and until when that is believed.
    making: HashMap<u64, Duration>,
}

enum Asked {
    OnItsWay(Box<Asker>),
    /// Until when; the passive node, or what each one said.
    Known(Duration, Result<Answer, String>),
}

impl Standbys {
    /// The passive node of this cluster at which a session may wait, or what the nodes say instead. To be asked again soon while
    /// it is pending.
    pub fn find(
        &mut self,
        name: &ServerName,
        cluster: (&Cluster, Option<ClusterId>),
        seen: Generation,
        now: Duration,
    ) -> Poll<Result<Answer, String>> {
        let key = name.to_string();
        let asker = match self.asked.remove(&key) {
            Some(Asked::Known(until, known)) if now < until => {
                let answer = Poll::Ready(known.clone());
                self.asked.insert(key, Asked::Known(until, known));
                return answer;
            }
            Some(Asked::OnItsWay(asker)) => Ok(asker),
            _ => Asker::start(name, cluster.0, seen, now).map(Box::new),
        };
        let known = match asker {
            Err(error) => Err(error.to_string()),
            Ok(mut asker) => {
                asker.on_timeout_if_due(now);
                let waits = |a: &&Answer| {
                    let ours = a.cluster_id.is_some() && a.cluster_id == cluster.1;
                    ours && a.role == Role::Passive && !a.endpoints.is_empty()
                };
                let found = asker.answers().find(waits).cloned();
                match (found, asker.outcome().is_some()) {
                    (Some(answer), _) => Ok(answer),
                    (None, true) => Err(asker.report()),
                    (None, false) => {
                        self.asked.insert(key, Asked::OnItsWay(asker));
                        return Poll::Pending;
                    }
                }
            }
        };
        (self.asked).insert(key, Asked::Known(now + GOOD, known.clone()));
        Poll::Ready(known)
    }

    /// Whether a session may be made there now; it is believed to be at it until then, or until [`Standbys::leave`].
    pub fn enter(&mut self, id: u64, now: Duration, until: Duration) -> bool {
        self.making.retain(|_, until| now < *until);
        let may = self.making.len() < AT_ONCE || self.making.contains_key(&id);
        if may {
            self.making.insert(id, until);
        }
        may
    }

    /// It was made, or was not.
    pub fn leave(&mut self, id: u64) {
        self.making.remove(&id);
    }

    /// Forgets all of it.
    pub fn forget_all(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_at_a_time() {
        let mut it = Standbys::default();
        let ms = Duration::from_millis;
        for id in 0..AT_ONCE as u64 {
            assert!(it.enter(id, ms(1), ms(100)));
        }
        assert!(!it.enter(9, ms(1), ms(100)));
        assert!(it.enter(0, ms(1), ms(100)));
        it.leave(0);
        assert!(it.enter(9, ms(1), ms(100)));
        // Who never came back is not waited for.
        assert!(!it.enter(10, ms(99), ms(200)));
        assert!(it.enter(10, ms(100), ms(200)));
    }
}
