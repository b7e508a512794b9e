//! The packet by which a session that moves tells its node under which key it is known: BackendKeyData of its login, which the
//! application was told, and perhaps told others. Requests to cancel will name it.
//!
//! It stands before everything else of the stream and is framed like PostgreSQL's own requests of that place (length, code).

/// The code of the packet: "VIAK". PostgreSQL's own versions and codes are far from it.
pub const CODE: u32 = 0x5649_414b;
/// Lengths that BackendKeyData's body may have: a process id, and a secret of 4 bytes (protocol 3.0) to 256 (3.2).
pub const KEY: std::ops::RangeInclusive<usize> = 8..=260;
/// Lengths that the packet may have.
pub const PACKET: std::ops::RangeInclusive<usize> = HEAD + 8..=HEAD + 260;

/// Length, code, version.
const HEAD: usize = 9;
const VERSION: u8 = 1;

/// The packet; `None`: that is no key.
pub fn packet(key: &[u8]) -> Option<Vec<u8>> {
    if !KEY.contains(&key.len()) {
        return None;
    }
    let length = ((HEAD + key.len()) as u32).to_be_bytes();
    Some([&length[..], &CODE.to_be_bytes(), &[VERSION], key].concat())
}

/// The key of a whole packet; `None`: it is malformed.
pub fn read(packet: &[u8]) -> Option<&[u8]> {
    let (head, key) = packet.split_at_checked(HEAD)?;
    let length = (packet.len() as u32).to_be_bytes();
    let is_one = head == [&length[..], &CODE.to_be_bytes(), &[VERSION]].concat();
    (is_one && KEY.contains(&key.len())).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_any_length_come_back() {
        for length in 0..300 {
            let key = vec![7; length];
            let packet = packet(&key);
            assert_eq!(packet.is_some(), KEY.contains(&length));
            let Some(mut packet) = packet else { continue };
            assert!(PACKET.contains(&packet.len()));
            assert_eq!(read(&packet), Some(&key[..]));
            assert_eq!(read(&packet[1..]), None);
            for at in 0..HEAD {
                packet[at] ^= 1;
                assert_eq!(read(&packet), None, "{at}");
                packet[at] ^= 1;
            }
            packet.push(7);
            assert_eq!(read(&packet), None);
        }
        assert_eq!(read(b""), None);
    }
}
