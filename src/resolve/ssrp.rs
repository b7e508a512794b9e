//! SSRP, the SQL Server Resolution Protocol ([MC-SQLR], revision of 2025-10-31), as server and as client: pure codecs.
//!
//! All texts are compared without regard to case; on the wire they are bytes of a code page, here they are UTF-8 with
//! anything else replaced. Integers are little-endian. Section numbers below are those of [MC-SQLR].

mod decode;

use decode::Tokens;
use std::fmt;

/// UDP port of the protocol, always.
pub const PORT: u16 = 1434;
/// Longest instance name in a request, bytes (2.2.3, 2.2.4).
pub const MAX_REQUEST_NAME: usize = 32;
/// Most data of one instance in an answer, bytes (2.2.5).
pub const MAX_INSTANCE_BYTES: usize = 1024;
/// Most data of an answer: what fits a UDP datagram over IPv4 (65,507) without the header.
pub const MAX_DATA_BYTES: usize = 65_504;
/// Longest answer to [`Request::Instance`] that we send: FreeTDS and Microsoft's ODBC driver read no more.
pub const MAX_UNICAST_DATAGRAM: usize = 1023;
/// Longest value of one protocol (3.2.5: an answer with a longer one should be rejected).
pub const MAX_PARAMETER: usize = 255;
/// Longest `via` element, bytes (2.2.5).
pub const MAX_VIA: usize = 128;
/// Longest NetBIOS name in it, bytes.
pub const MAX_NETBIOS: usize = 15;
/// Longest version text, bytes.
pub const MAX_VERSION: usize = 16;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `02`: all instances, by broadcast (2.2.1); foreign clients send it unicast too.
    Broadcast,
    /// `03`: all instances of one machine (2.2.2).
    List,
    /// `04`: one instance (2.2.3).
    Instance(String),
    /// `0F`: the port of one instance's dedicated administrator connection (2.2.4).
    Dac(String),
}

/// The `via` element: a NetBIOS name and pairs of NIC and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// At most 15 bytes, without `,` `:` `;`.
    pub netbios: String,
    /// At least one pair of NIC number and port.
    pub ports: Vec<(u32, u32)>,
}

/// One instance as an answer tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// The machine.
    pub server_name: String,
    /// The instance.
    pub instance_name: String,
    /// Whether it is clustered.
    pub clustered: bool,
    /// Digits and dots.
    pub version: String,
    /// TCP port.
    pub tcp: Option<u16>,
    /// Named pipe.
    pub np: Option<String>,
    /// VIA.
    pub via: Option<Via>,
    /// TCP port of the dedicated administrator connection: not part of RESP_DATA, the answer to [`Request::Dac`].
    pub dac: Option<u16>,
}

/// Why an answer is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BadAnswer {
    /// Shorter than its header or its size field says.
    Short,
    /// Longer than its size field says.
    Long,
    /// The first byte is not `05`.
    Type,
    /// More data than this kind of answer may have.
    TooLarge,
    /// It does not follow the grammar; where.
    Grammar(&'static str),
    /// One protocol's parameters exceed 255 bytes.
    Parameter,
    /// Port 0, or more than 65,535, or not a number.
    Port,
    /// More or fewer than one instance, or another one than was asked for.
    Instance,
}

impl Request {
    /// A server's reading. `None` means silence: there is no error answer (3.2.5). The NUL after a name may be missing
    /// (tiberius, mssql-jdbc), and what follows it is not looked at.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        match datagram {
            [2] => Some(Self::Broadcast),
            [3] => Some(Self::List),
            [4, name @ ..] => request_name(name).map(Self::Instance),
            [0x0f, 1, name @ ..] => request_name(name).map(Self::Dac),
            _ => None,
        }
    }

    /// A client's datagram; `None` when the name is empty, has a NUL or more than 32 bytes.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let (head, name): (&[u8], _) = match self {
            Self::Broadcast => return Some(vec![2]),
            Self::List => return Some(vec![3]),
            Self::Instance(name) => (&[4], name),
            Self::Dac(name) => (&[0x0f, 1], name),
        };
        let fits = (1..=MAX_REQUEST_NAME).contains(&name.len()) && !name.contains('\0');
        fits.then(|| [head, name.as_bytes(), &[0]].concat())
    }

    /// The answer to this request out of all `instances` of this machine, or `None` for silence.
    pub fn answer(&self, instances: &[Instance]) -> Option<Vec<u8>> {
        let named = |name: &str| {
            let mut all = instances.iter();
            all.find(|i| i.instance_name.eq_ignore_ascii_case(name))
        };
        let data = match self {
            Self::Dac(name) => {
                let port = named(name)?.dac.filter(|port| *port != 0)?;
                return Some(encode_dac(port).to_vec());
            }
            Self::Instance(name) => named(name)?.encode(MAX_UNICAST_DATAGRAM - HEADER),
            Self::Broadcast | Self::List => {
                let mut all = String::new();
                for one in instances
                    .iter()
                    .filter_map(|i| i.encode(MAX_INSTANCE_BYTES))
                {
                    if all.len() + one.len() <= MAX_DATA_BYTES {
                        all.push_str(&one);
                    }
                }
                Some(all)
            }
        };
        let data = data.filter(|data| !data.is_empty())?;
        let mut datagram = vec![5];
        datagram.extend_from_slice(&(data.len() as u16).to_le_bytes());
        datagram.extend_from_slice(data.as_bytes());
        Some(datagram)
    }

    /// A client's reading of the answer to this request. The policy, where clients differ: the size must be exact, the
    /// terminator must be there, keys are read in any case and order, each protocol at most once, a port must be one;
    /// `rpc`, `spx`, `adsp`, `bv` and unknown keys are skipped; `via` only in the form `;via;name,nic:port`. The answer to
    /// `04` has exactly the instance asked for, and no parameter of more than 255 bytes (3.1.5).
    pub fn parse_answer(&self, datagram: &[u8]) -> Result<Vec<Instance>, BadAnswer> {
        let [kind, low, high, data @ ..] = datagram else {
            return Err(BadAnswer::Short);
        };
        if *kind != 5 {
            return Err(BadAnswer::Type);
        }
        match data
            .len()
            .cmp(&usize::from(u16::from_le_bytes([*low, *high])))
        {
            std::cmp::Ordering::Less => return Err(BadAnswer::Short),
            std::cmp::Ordering::Greater => return Err(BadAnswer::Long),
            std::cmp::Ordering::Equal => {}
        }
        if matches!(self, Self::Instance(_) | Self::Dac(_)) && data.len() > MAX_INSTANCE_BYTES {
            return Err(BadAnswer::TooLarge);
        }
        let text = String::from_utf8_lossy(data);
        let mut tokens = Tokens::new(&text);
        let mut instances = Vec::new();
        while tokens.left() > 0 {
            instances.push(Instance::decode(&mut tokens)?);
        }
        match (self, &instances[..]) {
            (_, []) => Err(BadAnswer::Short),
            (Self::Broadcast | Self::List, _) => Ok(instances),
            (Self::Instance(name) | Self::Dac(name), [one])
                if one.instance_name.eq_ignore_ascii_case(name) =>
            {
                Ok(instances)
            }
            _ => Err(BadAnswer::Instance),
        }
    }
}

/// The answer to [`Request::Dac`] (2.2.6): the size is that of the whole datagram, the one exception.
pub fn encode_dac(port: u16) -> [u8; 6] {
    let [low, high] = port.to_le_bytes();
    [5, 6, 0, 1, low, high]
}

/// A client's reading of the answer to [`Request::Dac`].
pub fn parse_dac(datagram: &[u8]) -> Result<u16, BadAnswer> {
    match datagram {
        [5, 6, 0, 1, 0, 0] => Err(BadAnswer::Port),
        [5, 6, 0, 1, low, high] => Ok(u16::from_le_bytes([*low, *high])),
        [5, 6, 0, _, _, _] => Err(BadAnswer::Grammar("version of the DAC answer")),
        [5, ..] if datagram.len() < 6 => Err(BadAnswer::Short),
        [5, ..] => Err(BadAnswer::Long),
        [] => Err(BadAnswer::Short),
        _ => Err(BadAnswer::Type),
    }
}

impl Instance {
    /// RESP_DATA of this instance (2.2.5) in at most `limit` bytes. A protocol whose data is invalid or does not fit is left
    /// out; `None` when what remains would not be an instance. The order `tcp`, `np`, `via` is the one that every foreign
    /// client reads.
    fn encode(&self, limit: usize) -> Option<String> {
        let named = |name: &str| (1..=MAX_PARAMETER).contains(&name.len()) && is_clean(name);
        let version_fits = (1..=MAX_VERSION).contains(&self.version.len())
            && self
                .version
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'.');
        if !named(&self.server_name) || !named(&self.instance_name) || !version_fits {
            return None;
        }
        let mut text = format!(
            "ServerName;{};InstanceName;{};IsClustered;{};Version;{}",
            self.server_name,
            self.instance_name,
            if self.clustered { "Yes" } else { "No" },
            self.version
        );
        let tcp = self
            .tcp
            .filter(|port| *port != 0)
            .map(|port| format!(";tcp;{port}"));
        let np = self
            .np
            .as_ref()
            .filter(|pipe| named(pipe))
            .map(|pipe| format!(";np;{pipe}"));
        let via = self
            .via
            .as_ref()
            .and_then(Via::encode)
            .map(|via| format!(";via;{via}"));
        for element in [tcp, np, via.filter(|via| via.len() <= MAX_VIA)]
            .into_iter()
            .flatten()
        {
            if text.len() + element.len() + TERMINATOR.len() <= limit {
                text.push_str(&element);
            }
        }
        text.push_str(TERMINATOR);
        (text.len() <= limit).then_some(text)
    }
}

impl Via {
    fn encode(&self) -> Option<String> {
        let name_fits = (1..=MAX_NETBIOS).contains(&self.netbios.len())
            && is_clean(&self.netbios)
            && !self.netbios.contains([',', ':']);
        if !name_fits || self.ports.is_empty() {
            return None;
        }
        let ports = self
            .ports
            .iter()
            .map(|(nic, port)| format!(",{nic}:{port}"));
        Some(self.netbios.clone() + &ports.collect::<String>())
    }
}

const HEADER: usize = 3;
const TERMINATOR: &str = ";;";

fn request_name(bytes: &[u8]) -> Option<String> {
    let name = bytes.split(|b| *b == 0).next().unwrap_or_default();
    let fits = (1..=MAX_REQUEST_NAME).contains(&name.len());
    fits.then(|| String::from_utf8_lossy(name).into_owned())
}

// The separators leave no quoting.
fn is_clean(text: &str) -> bool {
    !text.contains(|c: char| c == ';' || c.is_control())
}

impl fmt::Display for BadAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => "shorter than its size field says",
            Self::Long => "longer than its size field says",
            Self::Type => "not an SSRP answer",
            Self::TooLarge => "more data than allowed",
            Self::Grammar(what) => return write!(f, "not understood at {what}"),
            Self::Parameter => "a parameter of more than 255 bytes",
            Self::Port => "impossible port",
            Self::Instance => "not the instance that was asked for",
        })
    }
}

impl std::error::Error for BadAnswer {}

#[cfg(test)]
#[path = "ssrp_tests.rs"]
mod tests;
