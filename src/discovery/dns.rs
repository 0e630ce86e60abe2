//! As much of DNS as it takes to ask for SRV records (RFC 1035, RFC 2782): one question to the machine's own servers,
//! by UDP, and by TCP where the answer is longer.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// How long one server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often each server is asked, since UDP may lose a question or its answer.
const TRIES: usize = 2;
/// The longest answer by UDP without an extension of ours.
const UDP_BYTES_MAX: usize = 512;

const HEADER: usize = 12;
const SRV: u16 = 33;
const INTERNET: u16 = 1;

/// One place where a service is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// The smallest is to be used first.
    pub priority: u16,
    /// Without the dot at the end.
    pub host: String,
    pub port: u16,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0:?} is no name in DNS")]
    Name(String),
    #[error("no such name")]
    NoSuchName,
    #[error("the server answers with code {0}")]
    Refused(u8),
    #[error("the answer is malformed: {0}")]
    Malformed(&'static str),
    #[error("no server answers: {0}")]
    Io(#[from] io::Error),
}

/// Asks DNS servers.
#[derive(Clone, Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
}

impl Resolver {
    /// With the servers that this machine uses.
    pub fn system() -> Resolver {
        let config = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Resolver { servers: nameservers(&config) }
    }

    /// The SRV records of a name, the most wanted first.
    pub async fn srv(&self, name: &str) -> Result<Vec<Srv>, Error> {
        let mut last = Error::Io(io::ErrorKind::TimedOut.into());
        for _ in 0..TRIES {
            for server in &self.servers {
                let question = question(rand::random(), name)?;
                match ask(*server, &question).await {
                    Err(error @ (Error::Io(_) | Error::Malformed(_) | Error::Refused(_))) => last = error,
                    answered => return answered,
                }
            }
        }
        Err(last)
    }
}

fn nameservers(config: &str) -> Vec<SocketAddr> {
    let servers = config.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers: Vec<SocketAddr> =
        servers.filter_map(|address| Some(SocketAddr::new(address.trim().parse().ok()?, 53))).collect();
    if servers.is_empty() { vec![SocketAddr::from(([127, 0, 0, 1], 53))] } else { servers }
}

async fn ask(server: SocketAddr, question: &[u8]) -> Result<Vec<Srv>, Error> {
    let own: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(own).await?;
    // From now on only this server is heard.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = [0; UDP_BYTES_MAX];
    let answered = async {
        loop {
            let len = socket.recv(&mut buffer).await?;
            // Late answers to others of our questions are passed over.
            if buffer[..len].starts_with(&question[..2]) {
                return answer(question, &buffer[..len]);
            }
        }
    };
    match timeout(PATIENCE, answered).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? {
        Answer::Records(records) => Ok(records),
        Answer::Truncated => {
            let asked = timeout(PATIENCE, ask_by_tcp(server, question));
            asked.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, question: &[u8]) -> Result<Vec<Srv>, Error> {
    let mut stream = TcpStream::connect(server).await?;
    let len = u16::try_from(question.len()).expect("a question is short");
    stream.write_all(&[&len.to_be_bytes(), question].concat()).await?;
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    match answer(question, &message)? {
        Answer::Records(records) => Ok(records),
        Answer::Truncated => Err(Error::Malformed("cut off where there is room")),
    }
}

/// A question for the SRV records of a name.
pub fn question(id: u16, name: &str) -> Result<Vec<u8>, Error> {
    let bad = || Error::Name(name.to_owned());
    // Recursion is desired; one question.
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len) && label.is_ascii());
        message.push(len.ok_or_else(bad)?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    if message.len() > HEADER + 255 {
        return Err(bad());
    }
    message.extend([SRV.to_be_bytes(), INTERNET.to_be_bytes()].concat());
    Ok(message)
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Records(Vec<Srv>),
    /// It did not fit.
    Truncated,
}

/// Reads the answer to a question.
pub fn answer(question: &[u8], message: &[u8]) -> Result<Answer, Error> {
    let (asked, rest) =
        message.split_at_checked(question.len()).ok_or(Error::Malformed("shorter than its question"))?;
    let [_, _, flags, code, _, _, a, b, ..] = asked else { return Err(Error::Malformed("no header")) };
    // The question is repeated as it was; a name in other letters would be somebody else's answer.
    if flags & 0xf8 != 0x80 || asked[..2] != question[..2] || asked[HEADER..] != question[HEADER..] {
        return Err(Error::Malformed("not to what was asked"));
    }
    match code & 0xf {
        0 => {}
        3 => return Err(Error::NoSuchName),
        code => return Err(Error::Refused(code)),
    }
    if flags & 2 != 0 {
        return Ok(Answer::Truncated);
    }
    let mut reader = Reader { message, at: message.len() - rest.len() };
    let mut records = Vec::new();
    for _ in 0..u16::from_be_bytes([*a, *b]) {
        reader.name()?;
        let [kind, class] = [reader.u16()?, reader.u16()?];
        reader.skip(4)?;
        let len = usize::from(reader.u16()?);
        let end = reader.at + len;
        if kind == SRV && class == INTERNET {
            let [priority, _weight, port] = [reader.u16()?, reader.u16()?, reader.u16()?];
            let host = reader.name()?;
            if reader.at != end {
                return Err(Error::Malformed("a record of another length than it says"));
            }
            // A target of the root says that there is no such service.
            if !host.is_empty() {
                records.push(Srv { priority, host, port });
            }
        } else {
            reader.skip(len)?;
        }
    }
    if records.is_empty() {
        return Err(Error::NoSuchName);
    }
    records.sort();
    records.dedup();
    Ok(Answer::Records(records))
}

struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, len: usize) -> Result<&[u8], Error> {
        let bytes = self.message.get(self.at..self.at + len).ok_or(Error::Malformed("cut off"))?;
        self.at += len;
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        let bytes = self.skip(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A name without the dot at its end. Its rest may stand earlier in the message, and only there, so that every name
    /// ends.
    fn name(&mut self) -> Result<String, Error> {
        let mut name = String::new();
        let mut reader = Reader { message: self.message, at: self.at };
        let mut begins_before = self.at;
        let mut end = None;
        loop {
            let len = reader.skip(1)?[0];
            match len >> 6 {
                0 if len == 0 => break,
                0 => {
                    let label = reader.skip(len.into())?;
                    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
                    if !label.iter().all(is_host) || name.len() + label.len() > 255 {
                        return Err(Error::Malformed("a name that no host has"));
                    }
                    if !name.is_empty() {
                        name.push('.');
                    }
                    name.extend(label.iter().map(|byte| char::from(*byte)));
                }
                3 => {
                    let low = reader.skip(1)?[0];
                    let target = usize::from(u16::from_be_bytes([len & 0x3f, low]));
                    if target >= begins_before {
                        return Err(Error::Malformed("a name that goes on where it does not end"));
                    }
                    end = end.or(Some(reader.at));
                    (reader.at, begins_before) = (target, target);
                }
                _ => return Err(Error::Malformed("a label of an unknown kind")),
            }
        }
        self.at = end.unwrap_or(reader.at);
        Ok(name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An answer with these records, each name written out or, but for its first label, as it was in the question.
    fn answering(question: &[u8], records: &[(&str, u16)], truncated: bool) -> Vec<u8> {
        let mut message = question.to_vec();
        message[2] = if truncated { 0x82 } else { 0x80 };
        message[7] = if truncated { 0 } else { u8::try_from(records.len()).unwrap() };
        for (host, port) in records.iter().filter(|_| !truncated) {
            let mut target = vec![];
            for label in host.split('.') {
                target.push(u8::try_from(label.len()).unwrap());
                target.extend(label.as_bytes());
            }
            target.push(0);
            // The name of the question again; then an hour, a priority, a weight.
            message.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0x0e, 0x10]);
            message.extend(u16::try_from(6 + target.len()).unwrap().to_be_bytes());
            message.extend([0, 1, 0, 9]);
            message.extend(port.to_be_bytes());
            message.extend(target);
        }
        message
    }

    /// A server in this process that has these names. What has more than three records goes by TCP alone.
    pub(in super::super) async fn serving(names: &[(&str, &[(&str, u16)])]) -> Resolver {
        let owned = |(name, records): &(&str, &[(&str, u16)])| {
            let records: Vec<(String, u16)> = records.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
            ((*name).to_owned(), records)
        };
        let names: Vec<(String, Vec<(String, u16)>)> = names.iter().map(owned).collect();
        let answer = move |question: &[u8], by_udp: bool| {
            let has = |(name, _): &&(String, _)| self::question(0, name).unwrap()[2..] == question[2..];
            match names.iter().find(has) {
                Some((_, records)) => {
                    let records: Vec<(&str, u16)> = records.iter().map(|(host, port)| (&host[..], *port)).collect();
                    answering(question, &records, by_udp && records.len() > 3)
                }
                None => {
                    let mut message = question.to_vec();
                    (message[2], message[3]) = (0x80, 3);
                    message
                }
            }
        };
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let by_udp = answer.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
                // Somebody else's answer first.
                udp.send_to(b"\0\0nonsense", from).await.unwrap();
                udp.send_to(&by_udp(&buffer[..len], true), from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut question = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut question).await.unwrap();
                let message = answer(&question, false);
                stream.write_u16(u16::try_from(message.len()).unwrap()).await.unwrap();
                stream.write_all(&message).await.unwrap();
            }
        });
        Resolver { servers: vec![address] }
    }

    #[tokio::test]
    async fn records_come_in_order_and_long_answers_by_tcp() {
        let many: &[(&str, u16)] = &[("d.x", 4), ("b.x", 2), ("a.x", 1), ("c.x", 3)];
        let dns = serving(&[("_a._tcp.x", &[("h.x", 7)]), ("_b._tcp.x", many)]).await;
        assert_eq!(dns.srv("_a._tcp.x").await.unwrap(), [Srv { priority: 1, host: "h.x".into(), port: 7 }]);
        let found = dns.srv("_b._tcp.x").await.unwrap();
        assert_eq!(found.iter().map(|srv| srv.port).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(matches!(dns.srv("_c._tcp.x").await, Err(Error::NoSuchName)));
        assert!(matches!(dns.srv("a..b").await, Err(Error::Name(_))));
    }

    #[test]
    fn an_answer_cut_anywhere_or_to_something_else_is_refused() {
        let asked = question(7, "_a._tcp.x").unwrap();
        let good = answering(&asked, &[("host.example.com", 2379)], false);
        assert!(answer(&asked, &good).is_ok());
        for len in 0..good.len() {
            assert!(answer(&asked, &good[..len]).is_err(), "{len} bytes");
        }
        for other in [question(8, "_a._tcp.x").unwrap(), question(7, "_a._tcp.y").unwrap(), asked.clone()] {
            let mut foreign = answering(&other, &[("h", 1)], false);
            if other == asked {
                // A question, and no answer.
                foreign[2] = 0;
            }
            assert!(matches!(answer(&asked, &foreign), Err(Error::Malformed(_))));
        }
    }

    #[test]
    fn names_that_lead_to_themselves_or_forward_are_refused() {
        let asked = question(7, "_a._tcp.x").unwrap();
        let at = u8::try_from(asked.len()).unwrap();
        for target in [at, at + 1, 0xff] {
            let mut message = asked.clone();
            (message[2], message[7]) = (0x80, 1);
            message.extend([0xc0, target, 0, 33, 0, 1, 0, 0, 0, 0, 0, 0]);
            assert!(matches!(answer(&asked, &message), Err(Error::Malformed(_))), "{target}");
        }
    }

    #[test]
    fn servers_are_those_of_the_file_or_this_machine() {
        let config = "# comment\nsearch example.com\nnameserver 10.0.0.1\n nameserver\t::1 \nnameserver nonsense\n";
        assert_eq!(nameservers(config), ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse::<SocketAddr>().unwrap()]);
        assert_eq!(nameservers(""), ["127.0.0.1:53".parse().unwrap()]);
    }
}
