//! A channel that the application does not know yet: its bytes, without bell and wake words.

use super::Channel;
use crate::via::Broken;

impl Channel {
    /// Accepts what there is room for, and says how much. Only before [`Channel::activate`].
    pub fn put(&self, bytes: &[u8]) -> Result<usize, Broken> {
        if let Some(why) = self.broken() {
            return Err(why);
        }
        let n = self.tx.push(bytes).map_err(|c| self.corrupted(c))?;
        if n > 0 {
            self.produced();
        }
        Ok(n)
    }

    /// What has come, at most `most` bytes; nothing where there is nothing now. Only before [`Channel::activate`].
    pub fn get(&self, most: usize) -> Result<Vec<u8>, Broken> {
        self.drive_both();
        let mut bytes = vec![0; self.come().min(most)];
        let n = self.rx.pop(&mut bytes).map_err(|c| self.corrupted(c))?;
        bytes.truncate(n);
        if n > 0 {
            self.consumed_some();
        } else if self.rx.finished() {
            return Err(Broken::Transport(
                "the server has ended the connection".into(),
            ));
        } else if let Some(why) = self.broken() {
            return Err(why);
        }
        Ok(bytes)
    }
}
