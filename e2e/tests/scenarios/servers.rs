//! Servers that stand between Headwater and a registry: a proxy, and a registry that is out of order.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;

/// Answers connections on a port of its own, each in a thread, until the process ends.
fn serve(handle: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handle = Arc::clone(&handle);
            // Clients hang up as they like.
            std::thread::spawn(move || drop(handle(stream)));
        }
    });
    address
}

/// Request line and headers, up to the empty line.
fn head(reader: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let lines = reader.lines().take_while(|line| line.as_ref().is_ok_and(|l| !l.is_empty()));
    lines.collect()
}

/// An HTTP proxy that leads everything to one place, whatever name it is asked for, and remembers what it was asked.
pub(crate) struct Proxy {
    /// `HOST:PORT`.
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// With a user and a password, if it wants one.
    pub(crate) fn start(to: &str, login: Option<(&str, &str)>) -> Self {
        let (to, asked) = (to.to_owned(), Arc::new(Mutex::new(Vec::new())));
        let wanted = login.map(|(user, password)| {
            let pair = base64::prelude::BASE64_STANDARD.encode(format!("{user}:{password}"));
            format!("proxy-authorization: basic {pair}").to_lowercase()
        });
        let record = Arc::clone(&asked);
        let address = serve(move |mut client| {
            let mut reader = BufReader::new(client.try_clone()?);
            let head = head(&mut reader)?;
            record.lock().unwrap().push(head[0].trim_end_matches(" HTTP/1.1").to_owned());
            if wanted.as_ref().is_some_and(|wanted| !head.iter().any(|line| line.to_lowercase() == *wanted)) {
                return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n");
            }
            let server = TcpStream::connect(&to)?;
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            let (mut up, mut down) = (server.try_clone()?, server);
            let upwards = std::thread::spawn(move || {
                let _ = std::io::copy(&mut reader, &mut up);
                up.shutdown(std::net::Shutdown::Write)
            });
            std::io::copy(&mut down, &mut client)?;
            client.shutdown(std::net::Shutdown::Both)?;
            upwards.join().unwrap()
        });
        Self { address, asked }
    }

    /// What it was asked since the last call, the same only once.
    pub(crate) fn asked(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.asked.lock().unwrap());
        asked.dedup();
        asked
    }
}

/// What a registry that is out of order does.
#[derive(Clone)]
pub(crate) enum Fault {
    /// Nothing is wrong: it sends everybody to the real one.
    None,
    /// It answers this to everything: status and headers, and a body.
    Answers(&'static str, &'static str),
    /// It takes requests, and says nothing to those for paths that contain this.
    Silent(&'static str),
}

/// A registry that works, or not, as it is told.
pub(crate) struct Moody {
    /// `HOST:PORT`.
    pub(crate) address: String,
    fault: Arc<Mutex<Fault>>,
}

impl Moody {
    /// In front of a real one; at first it works.
    pub(crate) fn start(real: &str) -> Self {
        let (real, fault) = (real.to_owned(), Arc::new(Mutex::new(Fault::None)));
        let mood = Arc::clone(&fault);
        let address = serve(move |mut client| {
            let head = head(&mut BufReader::new(client.try_clone()?))?;
            let path = head[0].split(' ').nth(1).unwrap_or("/").to_owned();
            let fault = mood.lock().unwrap().clone();
            let (head, body) = match fault {
                Fault::Silent(part) if path.contains(part) => {
                    // Until the client has enough.
                    client.set_read_timeout(Some(Duration::from_secs(60)))?;
                    return client.read(&mut [0]).map(drop);
                }
                Fault::None | Fault::Silent(_) => (format!("307 There\r\nlocation: http://{real}{path}"), ""),
                Fault::Answers(head, body) => (head.to_owned(), body),
            };
            let length = body.len();
            write!(client, "HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        });
        Self { address, fault }
    }

    /// From now on.
    pub(crate) fn becomes(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }
}
