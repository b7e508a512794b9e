//! A client's reading of RESP_DATA (2.2.5).

use super::{BadAnswer, Instance, MAX_INSTANCE_BYTES, MAX_NETBIOS, MAX_PARAMETER, Via};

impl Instance {
    pub(super) fn decode(tokens: &mut Tokens<'_>) -> Result<Self, BadAnswer> {
        let length_before = tokens.left();
        let mut instance = Self {
            server_name: tokens.pair("ServerName")?.to_owned(),
            instance_name: tokens.pair("InstanceName")?.to_owned(),
            clustered: match tokens.pair("IsClustered")? {
                yes if yes.eq_ignore_ascii_case("Yes") => true,
                no if no.eq_ignore_ascii_case("No") => false,
                _ => return Err(BadAnswer::Grammar("IsClustered")),
            },
            version: tokens.pair("Version")?.to_owned(),
            ..Self::default()
        };
        let mut seen = Vec::new();
        loop {
            let key = tokens.next().ok_or(BadAnswer::Grammar("terminator"))?;
            if key.is_empty() {
                break;
            }
            let key = key.to_ascii_lowercase();
            if seen.contains(&key) {
                return Err(BadAnswer::Grammar("a protocol twice"));
            }
            if key == "bv" {
                tokens.skip_bv();
            } else {
                instance.protocol(&key, tokens.value()?)?;
            }
            seen.push(key);
        }
        // The key after the last value was empty: that was the first half of `;;`, this is the second.
        if tokens.rest.is_none() {
            return Err(BadAnswer::Grammar("terminator"));
        }
        if length_before - tokens.left() > MAX_INSTANCE_BYTES {
            return Err(BadAnswer::TooLarge);
        }
        Ok(instance)
    }

    fn protocol(&mut self, key: &str, value: &str) -> Result<(), BadAnswer> {
        match key {
            "tcp" => self.tcp = Some(port(value)?),
            "np" => self.np = Some(value.to_owned()),
            "via" => self.via = Some(Via::decode(value)?),
            _ => {}
        }
        Ok(())
    }
}

impl Via {
    pub(super) fn decode(value: &str) -> Result<Self, BadAnswer> {
        const BAD: BadAnswer = BadAnswer::Grammar("via");
        let mut parts = value.split(',');
        let netbios = parts
            .next()
            .filter(|n| (1..=MAX_NETBIOS).contains(&n.len()))
            .ok_or(BAD)?;
        let number = |n: &str| match !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) {
            true => n.parse().map_err(|_| BAD),
            false => Err(BAD),
        };
        let pair = |p: &str| {
            let (nic, port) = p.split_once(':').ok_or(BAD)?;
            Ok((number(nic)?, number(port)?))
        };
        let ports = parts.map(pair).collect::<Result<Vec<(u32, u32)>, _>>()?;
        if ports.is_empty() || netbios.contains(':') {
            return Err(BAD);
        }
        Ok(Self {
            netbios: netbios.to_owned(),
            ports,
        })
    }
}

/// The values between semicolons. `rest` is `None` once no semicolon was left to end the last one.
pub(super) struct Tokens<'a> {
    rest: Option<&'a str>,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { rest: Some(text) }
    }

    /// Bytes not taken yet.
    pub(super) fn left(&self) -> usize {
        self.rest.map_or(0, str::len)
    }

    /// The text up to the next semicolon. `None` at the end of the data; the last token has no semicolon behind it.
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        match rest.split_once(';') {
            Some((token, rest)) => {
                self.rest = Some(rest);
                Some(token)
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }

    fn value(&mut self) -> Result<&'a str, BadAnswer> {
        match self.next() {
            Some("") => Err(BadAnswer::Grammar("empty value")),
            Some(value) if value.len() > MAX_PARAMETER => Err(BadAnswer::Parameter),
            Some(value) => Ok(value),
            None => Err(BadAnswer::Short),
        }
    }

    fn pair(&mut self, key: &'static str) -> Result<&'a str, BadAnswer> {
        match self.next() {
            Some(found) if found.eq_ignore_ascii_case(key) => self.value(),
            _ => Err(BadAnswer::Grammar(key)),
        }
    }

    /// Banyan VINES has five values as the grammar is printed and three in practice, any of them empty: all up to the next
    /// known key, or up to what can only be the end of the instance, is skipped.
    fn skip_bv(&mut self) {
        const KEYS: [&str; 6] = ["tcp", "np", "via", "rpc", "spx", "adsp"];
        for _ in 0..5 {
            let Some(rest) = self.rest else { return };
            let (token, after) = rest.split_once(';').unwrap_or((rest, ""));
            let next = after.split(';').next().unwrap_or_default();
            let ends =
                token.is_empty() && (after.is_empty() || next.eq_ignore_ascii_case("ServerName"));
            if ends || KEYS.iter().any(|key| token.eq_ignore_ascii_case(key)) {
                return;
            }
            self.next();
        }
    }
}

fn port(value: &str) -> Result<u16, BadAnswer> {
    match value.bytes().all(|b| b.is_ascii_digit()) {
        true => value
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(BadAnswer::Port),
        false => Err(BadAnswer::Port),
    }
}
